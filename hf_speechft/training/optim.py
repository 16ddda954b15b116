"""Two learning rates, one for what was pre-trained and one for what is new, and the seed article's schedule."""

from collections.abc import Iterable

import torch
from torch import nn

BODY = "speechbert.backbone."


def group_parameters(
    model: nn.Module, *, learning_rate: float, new_learning_rate: float, weight_decay: float, decayed: Iterable[str]
) -> list[dict]:
    """Sort parameters into groups for an optimiser.

    Args:
        model: A `SpeechBertForCTC`.
        learning_rate: Of the pre-trained body.
        new_learning_rate: Of the front-end and the head.
        weight_decay: Of the parameters in `decayed`; the others have none.
        decayed: Names of the parameters that decay: weights, not biases nor norms.

    Returns:
        Groups with `params`, `lr` and `weight_decay`; a group without parameters is left out.
    """
    decayed = set(decayed)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = learning_rate if name.startswith(BODY) else new_learning_rate
            groups.setdefault((rate, weight_decay if name in decayed else 0.0), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def step_schedule(
    optimizer: torch.optim.Optimizer, *, steps_per_decay: int, gamma: float
) -> torch.optim.lr_scheduler.LRScheduler:
    """Multiply the learning rates by `gamma` after every `steps_per_decay` updates (torch's StepLR).

    Raises:
        ValueError: The number of updates is below 1.
    """
    if steps_per_decay < 1:
        raise ValueError(
            f"the learning rate would decay every {steps_per_decay} updates; --step_lr_epochs must span at least one"
        )
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=steps_per_decay, gamma=gamma)
