"""What a run does where memory runs out: it cuts its batches into equal parts and accumulates so many more of them.

An update then learns from the same clips as before, so that nothing but the speed changes; with `--batch_seconds`,
from as many seconds of speech. The Trainer's own `--auto_find_batch_size` takes a tenth off the batch and leaves the
accumulation as it was, which makes it another recipe.
"""

import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import TrainingArguments

from hf_speechft.training.arguments import Arguments, SpeechTrainingArguments
from hf_speechft.training.checkpoints import whole_checkpoints

if TYPE_CHECKING:
    from hf_speechft.training.finetune import FineTuning

logger = logging.getLogger(__name__)

# transformers 5.24 gave the argument another name, and warns where it is called by the old one.
CHECKPOINTING = "activation" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient"
REMEDIES = (
    f"what takes less memory: --{CHECKPOINTING}_checkpointing true, --bf16 true, a smaller --max_duration_s, "
    "--method lora, a smaller text checkpoint"
)


class BatchTooLargeError(ValueError):
    """A training batch does not fit into memory; the message says what to do.

    Attributes:
        parts: Equal parts that the batch can be cut into by whoever starts the training over; None where it cannot be.
    """

    def __init__(self, message: str, parts: int | None = None) -> None:
        super().__init__(message)
        self.parts = parts


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an error that says that memory ran out, on a GPU or on the CPU, from others."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or should_reduce_batch_size(error)


def split_batches(training: SpeechTrainingArguments, parts: int) -> SpeechTrainingArguments:
    """Make batches smaller by a factor, and accumulate more of them by the same factor.

    Args:
        training: The run's arguments, which stay as they are.
        parts: The factor; it divides the number of clips, unless batches are made by seconds.
    """
    if parts == 1:
        return training
    if training.batch_seconds is None:
        smaller = {"per_device_train_batch_size": training.per_device_train_batch_size // parts}
    else:
        clips = training.batch_clips and max(1, training.batch_clips // parts)
        smaller = {"batch_seconds": training.batch_seconds / parts, "batch_clips": clips}
    if training.saves_between_evaluations:
        smaller["save_strategy"] = "steps"  # as it was given
    accumulated = training.gradient_accumulation_steps * parts
    return dataclasses.replace(training, **smaller, gradient_accumulation_steps=accumulated)


def describe_batches(training: SpeechTrainingArguments) -> str:
    """Say how large a batch is and how many are accumulated, as the arguments that ask for it."""
    names = ["per_device_train_batch_size"] if training.batch_seconds is None else ["batch_seconds", "batch_clips"]
    values = {name: getattr(training, name) for name in (*names, "gradient_accumulation_steps")}
    return " ".join(f"--{name} {value:g}" for name, value in values.items() if value is not None)


def train_within_memory(make_run: Callable[[Arguments, int], "FineTuning"], arguments: Arguments) -> dict[str, object]:
    """Train and report; where a batch does not fit into memory, again with smaller ones from the last checkpoint.

    All is made anew, so the run is the one that smaller batches would have been asked for.

    Args:
        make_run: `FineTuning`, called with the arguments and with the parts that each batch is cut into.
        arguments: The three dataclasses of `parse_arguments`.

    Returns:
        What metrics.json holds.

    Raises:
        BatchTooLargeError: A batch cannot be made smaller.
    """
    model, data, training = arguments
    parts = 1
    while True:
        began = time.time()
        run = make_run((model, data, copy.copy(training)), parts)
        try:
            return run.train_and_report()
        except BatchTooLargeError as error:
            if error.parts is None:
                raise
            parts = run.batch_parts * error.parts
        batches = describe_batches(run.training_arguments), describe_batches(split_batches(training, parts))
        logger.warning("memory ran out with %s; starting again from the last checkpoint with %s", *batches)
        training.overwrite_output_dir = False  # what is in the folder now is this run's
        saved = [one for one in whole_checkpoints(Path(training.output_dir)) if one.stat().st_mtime > began]
        if saved and training.resume_from_checkpoint:
            training.resume_from_checkpoint = str(saved[-1])
        del run
        clear_device_cache(garbage_collection=True)


@contextmanager
def naming_batch(training: SpeechTrainingArguments, clips: int) -> Iterator[None]:
    """Turn running out of memory in a step of training into an error that says what to do.

    Args:
        training: The arguments that the batch was made with.
        clips: Number of clips in the batch.

    Raises:
        BatchTooLargeError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or training.auto_find_batch_size:  # which makes the Trainer handle it
            raise
        raise _too_large(training, clips) from error


def _too_large(training: SpeechTrainingArguments, clips: int) -> BatchTooLargeError:
    size = training.per_device_train_batch_size if training.batch_seconds is None else 2
    if clips == 1 or size == 1:
        return BatchTooLargeError(f"memory ran out with a single clip in a batch, which cannot be cut; {REMEDIES}")
    parts = next(parts for parts in range(2, size + 1) if size % parts == 0)
    ran_out = f"memory ran out with {clips} clips in a batch"
    if training.world_size > 1:
        ran_out += f" on one of {training.world_size} processes, which would have to change in step"
    smaller = describe_batches(split_batches(training, parts))
    return BatchTooLargeError(
        f"{ran_out}; {smaller} takes less for updates of the same size than {describe_batches(training)}; {REMEDIES}",
        parts if training.world_size == 1 else None,
    )


def halve_evaluation(training: SpeechTrainingArguments) -> None:
    """Halve the batches of evaluations, in place: no result depends on them.

    Args:
        training: The arguments of the evaluation in which memory ran out.

    Raises:
        ValueError: They have a single clip, or several processes would have to do so in step.
    """
    size = training.per_device_eval_batch_size
    if size == 1 or training.world_size > 1:
        smaller = "" if size == 1 else f"--per_device_eval_batch_size {size // 2} gives the same results with less; "
        raise ValueError(
            f"memory ran out in an evaluation with --per_device_eval_batch_size {size}; {smaller}{REMEDIES}"
        )
    training.per_device_eval_batch_size = size // 2
    logger.warning("memory ran out in an evaluation of %d clips at a time; going on with %d", size, size // 2)
