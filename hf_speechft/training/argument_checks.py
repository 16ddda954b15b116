"""Which arguments of a run are refused: before anything is loaded, and not by what goes wrong hours later."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_speechft.training.arguments import SpeechTrainingArguments

SAMPLING_STRATEGIES = ("random", "sequential", "group_by_length", "batch_rebalance")
METRICS = ("wer", "cer", "loss")
METHODS = ("full", "staged", "lora", "layernorm", "frozen", "random")
# Arguments of the Trainer that a run cannot follow.
REFUSED = {
    "prediction_loss_only": "error rates are read from every evaluation",
    "batch_eval_metrics": "error rates are counted over a whole split",
    "label_smoothing_factor": "CTC has no label for each step that could be smoothed",
    "save_only_model": "a run goes on from checkpoints, and needs the optimiser's state for that",
    "dataloader_drop_last": "it would drop utterances of the evaluated splits too",
    "hub_revision": "the folder is uploaded to the main branch; for another one use `hf upload --revision`",
}


def check_numbers(training: "SpeechTrainingArguments") -> None:
    """Refuse numbers that are out of range.

    Raises:
        ValueError: Naming the argument, its value and what it needs to be.
    """
    counts = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    for name in (*counts, "beam_width", "lm_order", "average_checkpoints"):
        if getattr(training, name) < 1:
            raise ValueError(f"--{name} is {getattr(training, name)}; it needs to be 1 or more")
    for name in ("learning_rate", "new_learning_rate"):
        if not 0 <= getattr(training, name) < math.inf:
            raise ValueError(f"--{name} is {getattr(training, name)}; it needs to be a number from 0 up")
    if not 0 <= training.balance_power <= 1:
        raise ValueError(f"--balance_power is {training.balance_power}; it needs to be from 0 to 1")
    for name in ("warmup_epochs", "step_lr_epochs", "batch_seconds", "batch_clips"):
        value = getattr(training, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} is {value}; it needs to be above 0")
    if training.clean_epochs < 0 or (training.max_steps < 0 and training.clean_epochs > training.num_train_epochs):
        raise ValueError(
            f"--clean_epochs is {training.clean_epochs}; they are the last of the {training.num_train_epochs:g} of "
            "--num_train_epochs, so give a number from 0 to that"
        )


def check_choices(training: "SpeechTrainingArguments") -> None:
    """Refuse choices that there are not, that exclude each other, or that a run cannot follow.

    Raises:
        ValueError: Naming the argument and what to do instead.
    """
    for name, reason in REFUSED.items():
        if getattr(training, name, None):  # some came with newer versions of transformers
            raise ValueError(f"leave --{name} out: {reason}")
    if training.clean_epochs and training.early_stopping_patience:
        raise ValueError(
            "--clean_epochs are the last ones, and --early_stopping_patience may stop before them; leave one out"
        )
    if training.train_sampling_strategy not in SAMPLING_STRATEGIES:
        known = ", ".join(SAMPLING_STRATEGIES)
        raise ValueError(f"--train_sampling_strategy is {training.train_sampling_strategy!r}; choose one of {known}")
    if training.batch_seconds is None and training.batch_clips is not None:
        raise ValueError("--batch_clips limits the batches that --batch_seconds makes; give that as well")
    if training.batch_seconds is not None and (
        training.train_sampling_strategy != "group_by_length" or training.auto_find_batch_size
    ):
        raise ValueError(
            "--batch_seconds chooses the batches; leave --train_sampling_strategy and --auto_find_batch_size out"
        )
    if training.balance_by is not None and training.train_sampling_strategy != "group_by_length":
        raise ValueError("--balance_by chooses the clips of an epoch; leave --train_sampling_strategy out")
    if training.method not in METHODS:
        raise ValueError(f"--method is {training.method!r}; choose one of {', '.join(METHODS)}")
    if training.method == "staged" and training.step_lr_epochs is not None:
        raise ValueError("--method staged has a schedule for each layer; leave --step_lr_epochs out")
    if training.remove_unused_columns or training.length_column_name != "duration_s":
        raise ValueError("leave --remove_unused_columns and --length_column_name out: the collator needs all columns")
    best = training.metric_for_best_model
    if best is not None and (best.removeprefix("eval_") not in METRICS or training.greater_is_better):
        known = ", ".join(METRICS)
        raise ValueError(f"--metric_for_best_model is {best!r}; choose one of {known}, of which less is better")
    by_steps = training.load_best_model_at_end and training.eval_strategy == training.save_strategy == "steps"
    if by_steps and training.eval_steps is not None and training.eval_steps != training.save_steps:
        raise ValueError(
            f"--eval_steps is {training.eval_steps:g} and --save_steps {training.save_steps:g}: the best of the "
            "evaluations may have no checkpoint to be loaded; give both the same number"
        )
    averaged, limit = training.average_checkpoints, training.save_total_limit
    if averaged > 1 and not training.load_best_model_at_end:
        raise ValueError(f"--average_checkpoints {averaged} needs --load_best_model_at_end, to know the best")
    if averaged > 1 and limit is not None and limit < averaged:
        raise ValueError(
            f"--average_checkpoints is {averaged}, and --save_total_limit keeps {limit}; raise it to {averaged}"
        )
    if training.early_stopping_patience and (best is None or training.eval_strategy == "no"):
        raise ValueError("--early_stopping_patience needs evaluations: give --eval_strategy epoch or steps")
