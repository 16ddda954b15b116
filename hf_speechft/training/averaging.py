"""Average the weights of the best checkpoints of a run, which errs less than the best of them where each is noisy.

Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018 (arXiv:1803.05407);
ESPnet and icefall average the checkpoints of the best epochs in the same way.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import load_file

from hf_speechft.training.epochs import masked_epochs
from hf_speechft.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)


def average_best(trainer: SpeechTrainer, validation: Dataset, count: int) -> list[str]:
    """Give the model the mean weights of its best checkpoints, unless the best one alone is better on validation.

    With `--clean_epochs` only checkpoints of these epochs are averaged: those before them learned from other features.

    Args:
        trainer: After training; its model holds the weights of the best checkpoint.
        validation: Split that the checkpoints were compared on.
        count: Checkpoints to average at most; those that `save_total_limit` left are at hand.

    Returns:
        Names of the checkpoints that were averaged; none where the weights stay as they were.
    """
    if count < 2:
        return []
    metric = trainer.args.metric_for_best_model.removeprefix("eval_")
    start = masked_epochs(trainer.args, trainer.state) if trainer.args.clean_epochs else 0
    log_history = [entry for entry in trainer.state.log_history if entry["epoch"] > start]
    checkpoints = best_checkpoints(trainer.args.output_dir, log_history, f"eval_{metric}", count)
    if len(checkpoints) < 2:
        logger.info("%d checkpoint at hand, so none are averaged", len(checkpoints))
        return []
    recogniser = trainer.accelerator.unwrap_model(trainer.model)
    kept = {name: weight.cpu().clone() for name, weight in recogniser.state_dict().items()}
    recogniser.load_state_dict(average_weights(checkpoints), strict=False)  # integers stay as they are
    averaged = trainer.predict(validation, metric_key_prefix="averaged").metrics[f"averaged_{metric}"]
    best = trainer.state.best_metric
    is_better = averaged <= best
    logger.info(
        "validation %s of %d averaged checkpoints: %.4f; of the best one: %.4f; going on with %s",
        *(metric, len(checkpoints), averaged, best, "the average" if is_better else "the best one"),
    )
    if is_better:
        return [path.name for path in checkpoints]
    recogniser.load_state_dict(kept)
    return []


def best_checkpoints(
    folder: str | Path, log_history: Sequence[Mapping[str, float]], metric: str, count: int
) -> list[Path]:
    """Checkpoints in a run's folder with the lowest validation metric, the best first.

    Args:
        folder: The run's folder.
        log_history: The Trainer's log; its evaluations have `step` and the metric.
        metric: Such as `eval_wer`.
        count: How many at most.

    Returns:
        Folders; of equals the later first.
    """
    scores = {entry["step"]: entry[metric] for entry in log_history if metric in entry}
    at_hand = [step for step in scores if (Path(folder) / f"checkpoint-{step}").is_dir()]
    ranked = sorted(at_hand, key=lambda step: (scores[step], -step))
    return [Path(folder) / f"checkpoint-{step}" for step in ranked[:count]]


def average_weights(checkpoints: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Mean in float32 of each weight over checkpoints of one model; one file is in memory at a time."""
    mean: dict[str, torch.Tensor] = {}
    for path in checkpoints:
        for file in path.glob("*.safetensors"):  # one, or the shards of a large model
            for name, weight in load_file(file).items():
                if weight.is_floating_point():
                    mean[name] = mean.get(name, 0) + weight.float() / len(checkpoints)
    return mean
