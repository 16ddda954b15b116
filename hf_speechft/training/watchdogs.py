"""What goes wrong in training without an error, and what to do about it: NaN, divergence, silence.

All of it is told from the Trainer's log, which a checkpoint holds too, so that a resumed run goes on counting.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_speechft.training.arguments import SpeechTrainingArguments
from hf_speechft.training.checkpoints import whole_checkpoints

logger = logging.getLogger(__name__)

Log = Sequence[Mapping[str, float]]

NAN_LOGS = 3  # mixed precision in float16 overflows now and then and recovers
DIVERGENCE_LOGS = 5  # whose mean is compared
DIVERGENCE_FACTOR = 2.0
DIVERGENCE_SHARE = 0.05  # of the first loss: what is below it is noise of a model that has learned its data
EMPTY_EVALUATIONS = 3
EMPTY_SHARE = 0.99  # of hypotheses
EMPTY_PROGRESS = 0.2  # of all updates; until then silence is normal

NAN_REMEDIES = (
    "Start anew with lower --learning_rate and --new_learning_rate, or longer --warmup_steps, or with --fp16 false "
    "where that was on, and look for damaged clips with: hf-speechft audit"
)
DIVERGENCE_REMEDIES = (
    "lower --learning_rate and --new_learning_rate, longer --warmup_steps, or a lower --max_grad_norm; the best "
    "weights by validation are kept"
)
EMPTY_REMEDIES = (
    "CTC stays there until it finds which sounds are which letters. What helps: more updates (--num_train_epochs); a "
    "first stage on synthetic speech (--warmup_corpus train); a lower --subsampling; characters as units "
    "(--vocabulary char); a higher --new_learning_rate; less SpecAugment (--mask_time_prob 0 --mask_feature_prob 0)"
)


class TrainingError(ValueError):
    """Training cannot come to anything; the message says what to change."""


class Watchdogs(TrainerCallback):
    """Stops a run whose loss is not a number; advises, once, where it diverges or nothing is recognised."""

    def __init__(self) -> None:
        self._advised: set[str] = set()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Look at what was just logged.

        Raises:
            TrainingError: Loss or gradient were not finite the last `NAN_LOGS` times.
        """
        log = state.log_history
        if "loss" in log[-1]:
            if is_nan(log):
                raise TrainingError(
                    f"the loss or its gradient was not a finite number in the last {NAN_LOGS} entries of the log, up "
                    f"to update {state.global_step}. {NAN_REMEDIES}{last_good(args)}"
                )
            if losses := find_divergence(log):
                advice = (
                    "the training loss has risen from %.3g to %.3g (means of %d entries of the log). What helps: %s"
                )
                self._advise(state, advice, *losses, DIVERGENCE_LOGS, DIVERGENCE_REMEDIES)
        elif is_silent(log) and state.global_step >= EMPTY_PROGRESS * state.max_steps:
            advice = "in the last %d evaluations nothing was recognised in nearly all clips. %s"
            self._advise(state, advice, EMPTY_EVALUATIONS, EMPTY_REMEDIES)

    def _advise(self, state: TrainerState, advice: str, *values: object) -> None:
        if advice not in self._advised and state.is_world_process_zero:
            logger.warning(advice, *values)
        self._advised.add(advice)


def is_nan(log: Log) -> bool:
    """Whether loss or gradient norm were NaN or infinite the last `NAN_LOGS` times that they were logged."""
    entries = [entry for entry in log if "loss" in entry][-NAN_LOGS:]
    return len(entries) == NAN_LOGS and not any(
        math.isfinite(entry["loss"]) and math.isfinite(entry.get("grad_norm") or 0.0) for entry in entries
    )


def find_divergence(log: Log) -> tuple[float, float] | None:
    """Tell whether the training loss went up for good.

    Returns:
        The lowest mean of `DIVERGENCE_LOGS` entries and the mean of the last ones, where that is `DIVERGENCE_FACTOR`
        times as high.
    """
    losses = [entry["loss"] for entry in log if "loss" in entry and math.isfinite(entry["loss"])]
    starts = range(len(losses) - DIVERGENCE_LOGS + 1)
    means = [sum(losses[start : start + DIVERGENCE_LOGS]) / DIVERGENCE_LOGS for start in starts]
    if not means or means[-1] <= max(DIVERGENCE_FACTOR * min(means), DIVERGENCE_SHARE * losses[0]):
        return None
    return min(means), means[-1]


def is_silent(log: Log) -> bool:
    """Whether nearly all hypotheses were empty in the last `EMPTY_EVALUATIONS` evaluations."""
    shares = [entry["eval_empty"] for entry in log if "eval_empty" in entry][-EMPTY_EVALUATIONS:]
    return len(shares) == EMPTY_EVALUATIONS and min(shares) >= EMPTY_SHARE


def check_weights(model: torch.nn.Module, training: SpeechTrainingArguments) -> None:
    """Refuse to save weights that are not numbers: they would push good checkpoints out of `save_total_limit`.

    Args:
        model: About to be saved.
        training: The run's arguments.

    Raises:
        TrainingError: A weight is NaN or infinite.
    """
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise TrainingError(
                f"weights are no longer finite numbers (the first is {name}), and no checkpoint was made of them. "
                f"{NAN_REMEDIES}{last_good(training)}"
            )


def last_good(training: SpeechTrainingArguments) -> str:
    """Name the last checkpoint, as the end of a message; nothing where there is none."""
    checkpoints = whole_checkpoints(Path(training.output_dir))
    if not checkpoints or training.method == "lora":  # whose checkpoints hold adapters, and are no models
        return ""
    return (
        f". The last good checkpoint is {checkpoints[-1]}: --model_name_or_path {checkpoints[-1]} starts from its "
        "weights, with another --output_dir"
    )
