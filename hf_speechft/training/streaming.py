"""Training on a stream: what it needs of a run's arguments, and a Trainer that goes on where it was interrupted."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from datasets import IterableDataset
from torch.utils.data import DataLoader
from transformers.trainer_utils import seed_worker

from hf_speechft import SpeechBertProcessor
from hf_speechft.data.filters import FilterReport, reason_to_drop
from hf_speechft.data.passes import SpeechStream
from hf_speechft.training.arguments import DataArguments, SpeechTrainingArguments
from hf_speechft.training.checkpoints import STREAM_FOLDER
from hf_speechft.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)


def check_streaming(data: DataArguments, training: SpeechTrainingArguments) -> None:
    """Refuse arguments that need the length of the training split, which a stream hasn't got.

    Raises:
        ValueError: There is such an argument, or one is missing.
    """
    if not data.streaming:
        return
    if training.max_steps <= 0:
        raise ValueError("--streaming true has no epochs to count; give --max_steps, such as 20000")
    for name in ("eval_strategy", "save_strategy"):
        if getattr(training, name) == "epoch":
            raise ValueError(
                f"--streaming true has no epochs, after which --{name} epoch could act; give --eval_strategy steps "
                "--save_strategy steps --eval_steps 500 --save_steps 500"
            )
    if training.clean_epochs:
        raise ValueError("--streaming true has no epochs, of which --clean_epochs would be the last; leave one out")
    if data.shuffle_buffer < 1:
        raise ValueError(f"--shuffle_buffer is {data.shuffle_buffer}; it needs to be 1 or more utterances")
    unfit = {
        "batch_seconds": training.batch_seconds is not None,
        "step_lr_epochs": training.step_lr_epochs is not None,
        "dry_run": training.dry_run,
        "silence_share": data.silence_share > 0,
    }
    for name in [name for name, is_given in unfit.items() if is_given]:
        raise ValueError(f"--{name} needs the durations of all utterances; leave it out, or --streaming true")


def make_stream(
    rows: IterableDataset,
    processor: SpeechBertProcessor,
    limits: Mapping[str, float | Callable],
    data: DataArguments,
    training: SpeechTrainingArguments,
    *,
    augmented: bool,
) -> SpeechStream:
    """Shuffle a training split, and filter it as it passes.

    Args:
        rows: From `open_corpus`.
        processor: Knows the characters; a transcript with others is dropped.
        limits: As for `filter_corpus`.
        data: The buffer and the speeds.
        training: The seed, the run's folder and the processes.
        augmented: Whether the collator augments the rows.
    """
    seed = training.seed if training.data_seed is None else training.data_seed
    facts = json.dumps([asdict(data), seed], sort_keys=True, default=str)
    return SpeechStream(
        rows.shuffle(seed=seed, buffer_size=data.shuffle_buffer),
        partial(_find_reason, processor, dict(limits)),
        folder=Path(training.output_dir) / STREAM_FOLDER / hashlib.sha256(facts.encode()).hexdigest()[:12],
        speeds=data.speed_factors,
        augmented=augmented,
        process=training.process_index,
        processes=training.world_size,
    )


def _find_reason(
    processor: SpeechBertProcessor, limits: Mapping[str, float | Callable], duration_s: float, text: str
) -> str | None:
    tokenizer = processor.tokenizer
    reason = reason_to_drop(duration_s, text)
    if reason is None and tokenizer.unk_token in tokenizer.tokenize(text):
        return "unknown characters"
    return reason or reason_to_drop(duration_s, text, **limits)


class StreamTrainer(SpeechTrainer):
    """Trains on a `SpeechStream`, of which each process reads its own part; its batches are in the stream's order."""

    train_dataset: SpeechStream

    @property
    def workers(self) -> int:
        """Data loader workers of this process; one without a part of the source would have nothing to do."""
        return min(self.args.dataloader_num_workers, self.train_dataset.shards)

    def report(self) -> FilterReport:
        """Say what was kept and dropped so far."""
        return self.train_dataset.report(self.workers)

    def get_train_dataloader(self) -> DataLoader:
        """Make the loader; Accelerate, which would read the whole stream in each process, is not asked."""
        args, workers = self.args, self.workers
        return DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=_StreamCollator(self.data_collator),
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor if workers else None,
            worker_init_fn=partial(seed_worker, num_workers=workers, rank=args.process_index),
        )

    def _init_training_state(self, *args: object, **kwargs: object) -> tuple[int, int]:
        """Let the stream, too, go on where the checkpoint was saved."""
        epochs, batches = super()._init_training_state(*args, **kwargs)
        self.train_dataset.skip(batches, self._train_batch_size)
        return epochs, batches

    def train(self, *args: object, **kwargs: object) -> object:
        """Train as the Trainer does.

        Raises:
            ValueError: No utterance of the stream can be learned from.
        """
        output = super().train(*args, **kwargs)
        report = self.report()
        if not self.state.global_step:
            raise ValueError(f"nothing is left to use; {report}; give other data or relax the limits")
        if self.is_world_process_zero():
            logger.log(logging.WARNING if report.dropped else logging.INFO, "%s", report)
        return output


class _StreamCollator:
    """Makes batches, but of rows that are skipped an empty one, which the Trainer skips."""

    def __init__(self, collator: Callable[[Sequence[Mapping[str, object]]], Mapping[str, object]]) -> None:
        self.collator = collator

    def __call__(self, rows: Sequence[Mapping[str, object] | None]) -> Mapping[str, object]:
        return {} if rows[0] is None else self.collator(rows)
