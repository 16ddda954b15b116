"""Learning rates: one for what was pre-trained, one for what is new, by layer and by stage, and the seed article's."""

import re
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

BODY = "speechbert.backbone."
STAGED_SHARE = 0.2  # of the updates, in which the body stands still but for its norms
LAYER_DECAY = 0.9  # of the learning rate from one layer to the one below

_LAYER = re.compile(r"\.(\d+)\.")


def group_parameters(
    model: nn.Module,
    *,
    learning_rate: float,
    new_learning_rate: float,
    weight_decay: float,
    decayed: Iterable[str],
    staged: bool = False,
) -> list[dict]:
    """Sort parameters into groups for an optimiser.

    Args:
        model: A `SpeechBertForCTC`.
        learning_rate: Of the pre-trained body.
        new_learning_rate: Of the front-end and the head.
        weight_decay: Of the parameters in `decayed`; the others have none.
        decayed: Names of the parameters that decay: weights, not biases nor norms.
        staged: Whether the body's layers learn the slower, the farther from the output they are, and wait.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `waits`, which is True for what stands still in the first stage;
        a group without parameters is left out.
    """
    decayed = set(decayed)
    of_norms = {parameter for norm in norms(model) for parameter in norm.parameters()}
    layers = 1 + max((_layer(name) for name, _ in model.named_parameters()), default=0)
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_body = name.startswith(BODY)
            rate = learning_rate if is_body else new_learning_rate
            if staged and is_body:
                rate *= LAYER_DECAY ** (layers - 1 - _layer(name))
            waits = staged and is_body and parameter not in of_norms
            key = (rate, weight_decay if name in decayed else 0.0, waits)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "lr": rate, "weight_decay": decay, "waits": waits}
        for (rate, decay, waits), params in groups.items()
    ]


def norms(module: nn.Module) -> Iterator[nn.Module]:
    """The layer and root-mean-square norms inside a module; each checkpoint family has classes of its own."""
    return (child for child in module.modules() if type(child).__name__.endswith("Norm"))


def _layer(name: str) -> int:
    """Index of the body's layer that a parameter belongs to; what has none counts as the first."""
    number = _LAYER.search(name) if name.startswith(BODY) else None
    return int(number[1]) if number else 0


def hold_waiting_groups(scheduler: torch.optim.lr_scheduler.LRScheduler, updates: int) -> None:
    """Keep the learning rate of groups that wait at 0 for the first stage of a staged training, in place.

    Args:
        scheduler: Made with the optimiser of `group_parameters`.
        updates: In all.

    Raises:
        ValueError: The schedule is not a function of the update alone.
    """
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        raise ValueError("--method staged needs a schedule such as --lr_scheduler_type cosine, linear or constant")
    first = round(STAGED_SHARE * updates)
    for index, group in enumerate(scheduler.optimizer.param_groups):
        if group["waits"]:
            scheduler.lr_lambdas[index] = _after(first, scheduler.lr_lambdas[index])
            group["lr"] = scheduler.base_lrs[index] * scheduler.lr_lambdas[index](scheduler.last_epoch)


def _after(first: int, factor: Callable[[int], float]) -> Callable[[int], float]:
    return lambda update: factor(update) if update >= first else 0.0


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
