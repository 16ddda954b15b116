"""A dry run: what a run would use and drop, how many updates it would make, and what memory and time they would take.

All is made as for the run, up to its Trainer. A few updates of it are then made, measured and thrown away:

memory: what the process has had at most, after two updates with the batch that takes most.
time:   of updates from the longest to the shortest; a line through (seconds of padded speech, time) gives that of all.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_speechft.data.batching import padding_share
from hf_speechft.sharing.card import SplitFacts
from hf_speechft.training.blank import BLANK_PENALTIES
from hf_speechft.training.checkpoints import STATE_FILE, WARMUP_FOLDER, whole_checkpoints
from hf_speechft.training.report import describe_hardware, peak_gpu_memory_gb, peak_memory_gb
from hf_speechft.training.trainer import SpeechTrainer
from hf_speechft.training.warmup import make_warmup_trainer

if TYPE_CHECKING:
    from hf_speechft.training.finetune import FineTuning

TIMED_UPDATES = 8
TIMED_EVALUATION_BATCHES = 4
NOTHING_ELSE = {
    "eval_strategy": "no",
    "eval_on_start": False,
    "lr_scheduler_type": "linear",  # others may ask for evaluations or for their own options
    "lr_scheduler_kwargs": {},
    "save_strategy": "no",
    "logging_strategy": "no",
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
    "average_checkpoints": 1,
    "early_stopping_patience": 0,
    "step_lr_epochs": None,
    "dataloader_num_workers": 0,  # so that loading can be timed
    "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None,
    "report_to": "none",
    "disable_tqdm": True,
}

Batches = list[list[int]]


@dataclass(frozen=True)
class StageForecast:
    """What a stage of training would take.

    Attributes:
        name: "warm-up" for the stage on synthetic speech, "training", or "clean epochs" for the end of that.
        clips: Clips of an epoch, those at other speeds included.
        duration_s: Seconds of speech of an epoch.
        updates_per_epoch: Updates of an epoch.
        updates: Updates in all.
        updates_done: Updates that the checkpoint to go on from has behind it.
        largest_clips: Clips of the batch that takes most memory.
        largest_s: Seconds of the longest of them.
        padding: Share of the seconds in batches that is padding.
        update_s: Seconds that an update of the mean length takes.
        loading: Share of them that goes into reading and augmenting clips, which workers do meanwhile.
        minutes: Minutes that the updates to be made take.
    """

    name: str
    clips: int
    duration_s: float
    updates_per_epoch: int
    updates: int
    updates_done: int
    largest_clips: int
    largest_s: float
    padding: float
    update_s: float
    loading: float
    minutes: float


@dataclass(frozen=True)
class RunForecast:
    """What a run would use, drop and take.

    Attributes:
        splits: The data as it would be used.
        dropped_s: Seconds of speech that would be dropped, by split.
        units: The output units, the blank not included.
        parameters: Number of weights.
        trainable_parameters: Number of weights that would learn.
        stages: The stages of training, in their order.
        evaluations: How often the validation split would be evaluated.
        evaluation_minutes: What that takes.
        peak_memory_gb: Most memory in GB that a process would have, on the GPU if there is one.
        memory_gb: Memory in GB that the GPU, or else the machine, has; None where that is unknown.
        hardware: The machine, in words.
    """

    splits: Sequence[SplitFacts]
    dropped_s: Mapping[str, float]
    units: Sequence[str]
    parameters: int
    trainable_parameters: int
    stages: Sequence[StageForecast]
    evaluations: int
    evaluation_minutes: float
    peak_memory_gb: float
    memory_gb: float | None
    hardware: str

    @property
    def minutes(self) -> float:
        """Minutes from the first update to the last, evaluations included, reading and final decoding not."""
        return sum(stage.minutes for stage in self.stages) + self.evaluation_minutes


def forecast(run: "FineTuning") -> RunForecast:
    """Measure a few updates of a run that is ready to train.

    Args:
        run: Its model is no longer that of the run afterwards.

    Raises:
        BatchTooLargeError: A batch does not fit into memory.
    """
    stages = []
    if run.spoken is not None and not run.checkpoint:
        warmup = make_warmup_trainer(run.trainer.model, run.processor, run.spoken, run.training_arguments)
        checkpoints = whole_checkpoints(run.folder / WARMUP_FOLDER)
        stages.append(_forecast_stage("warm-up", warmup, checkpoints[-1] if checkpoints else None))
        del warmup
    stages += [
        _forecast_stage("training", run.trainer, run.checkpoint),
        _forecast_stage("clean epochs", run.trainer, run.checkpoint, is_clean=True),
    ]
    evaluations = _count_evaluations(run.trainer, run.checkpoint)
    return RunForecast(
        splits=[run.split_facts(name) for name in run.splits],
        dropped_s={name: report.dropped_s for name, report in run.reports.items()},
        units=_units(run.processor.tokenizer),
        parameters=run.trainer.model.num_parameters(),
        trainable_parameters=run.trainable_parameters,
        stages=[stage for stage in stages if stage is not None],
        evaluations=evaluations,
        evaluation_minutes=evaluations * _time_evaluation(run.trainer) / 60,
        peak_memory_gb=peak_gpu_memory_gb() or peak_memory_gb(),
        memory_gb=_memory_gb(),
        hardware=describe_hardware(),
    )


def _units(tokenizer: object) -> list[str]:
    return sorted(tokenizer.text_units, key=tokenizer.unit_ids.__getitem__)


def _memory_gb() -> float | None:
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / 1e9
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else None


def _updates_done(checkpoint: Path | str | None) -> int:
    return TrainerState.load_from_json(str(Path(checkpoint) / STATE_FILE)).global_step if checkpoint else 0


def _count_updates(training: TrainingArguments, updates_per_epoch: int) -> int:
    return training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * updates_per_epoch)


def _count_evaluations(trainer: SpeechTrainer, checkpoint: str | None) -> int:
    """Evaluations of the validation split, those of averaged checkpoints and of the blank's bias included."""
    training, every = trainer.args, trainer._updates_per_epoch()
    after_training = int(training.average_checkpoints > 1) + len(BLANK_PENALTIES)
    if training.eval_strategy == "no":
        return after_training
    updates = _count_updates(training, every)
    if training.eval_strategy == "steps":
        every = training.eval_steps if training.eval_steps >= 1 else math.ceil(updates * training.eval_steps)
    return math.ceil(updates / every) - int(_updates_done(checkpoint) // every) + after_training


def _forecast_stage(
    name: str, trainer: SpeechTrainer, checkpoint: Path | str | None, is_clean: bool = False
) -> StageForecast | None:
    """Measure a Trainer's updates: those of its clean epochs, or those before; None where there are none to make."""
    args, dataset = trainer.args, trainer.train_dataset
    durations_s = np.asarray(dataset["duration_s"][:])
    batches = [list(batch) for batch in trainer.get_train_dataloader().batch_sampler]  # of this process
    accumulated = min(args.gradient_accumulation_steps, len(batches))
    updates = [batches[start : start + accumulated] for start in range(0, len(batches), accumulated)]
    total = _count_updates(args, len(updates))
    first_clean = max(0, math.ceil(total / len(updates)) - args.clean_epochs) * len(updates)
    first, end = (first_clean, total) if is_clean else (0, min(first_clean, total))
    made = range(max(first, _updates_done(checkpoint)), end)
    if not made:
        return None

    def padded_s(update: Batches) -> float:
        return sum(len(batch) * durations_s[batch].max() for batch in update)

    largest = max(batches, key=lambda batch: len(batch) * durations_s[batch].max() ** 2)  # as attention's memory goes
    chosen = _choose(updates, padded_s, largest, accumulated)
    computing_s, loading_s = Rehearsal(trainer, chosen, is_clean).measure()
    seconds = [padded_s(update) for update in chosen]
    all_seconds = np.array([padded_s(update) for update in updates])
    computing, loading = (_extend_line(seconds[1:], taken[1:], all_seconds) for taken in (computing_s, loading_s))
    workers = args.dataloader_num_workers
    taken_s = np.maximum(computing, loading / workers) if workers else computing + loading  # (updates of an epoch,)
    return StageForecast(
        name=name,
        clips=len(dataset),
        duration_s=float(durations_s.sum()),
        updates_per_epoch=len(updates),
        updates=end - first,
        updates_done=made.start - first,
        largest_clips=len(largest),
        largest_s=float(durations_s[largest].max()),
        padding=padding_share(batches, durations_s),
        update_s=float(taken_s.mean()),
        loading=float(loading.sum() / (computing.sum() + loading.sum())),
        minutes=float(taken_s[np.array(made) % len(updates)].sum() / 60),
    )


def _choose(
    updates: Sequence[Batches], padded_s: Callable[[Batches], float], largest: list[int], accumulated: int
) -> list[Batches]:
    """Choose updates to measure: twice that of the largest batch, then some from long to short."""
    whole = [update for update in updates if len(update) == accumulated]
    first = next((update for update in whole if largest in update), whole[0])
    falling = sorted(whole, key=padded_s, reverse=True)
    spread = np.linspace(0, len(falling) - 1, TIMED_UPDATES).round().astype(int)
    return [first, first, *(falling[index] for index in spread)]


def _extend_line(seconds: Sequence[float], taken_s: Sequence[float], all_seconds: np.ndarray) -> np.ndarray:
    """Times of updates of so many seconds of padded speech, on the line of least squares through those measured."""
    points = np.stack([np.asarray(seconds), np.ones(len(seconds))], axis=1)
    (slope, start), *_ = np.linalg.lstsq(points, np.asarray(taken_s), rcond=None)
    return np.maximum(slope * all_seconds + start, 0.0)


class Rehearsal(SpeechTrainer):
    """Makes chosen updates of another Trainer with that one's model, and measures them.

    Args:
        trainer: The other one, which has not trained yet.
        updates: Indices of clips, by batch and update.
        is_clean: Whether they are of its clean epochs.
    """

    def __init__(self, trainer: SpeechTrainer, updates: Sequence[Batches], is_clean: bool) -> None:
        self.batches = [batch for update in updates for batch in update]
        self.accumulated = len(updates[0])
        sizes = {"max_steps": len(updates), "gradient_accumulation_steps": self.accumulated}
        self.stopwatch = Stopwatch(len(updates), show_progress=not trainer.args.disable_tqdm)
        self.collator = TimedCollator(trainer.data_collator)
        if is_clean:
            trainer.data_collator.set_epoch(0, is_clean=True)
        super().__init__(
            model=trainer.model,
            args=dataclasses.replace(trainer.args, **NOTHING_ELSE, **sizes, clean_epochs=int(is_clean)),
            data_collator=self.collator,
            train_dataset=trainer.train_dataset,
            processing_class=trainer.processing_class,
            callbacks=[self.stopwatch],
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        """Give this process the batches that were chosen."""
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)

    def measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Make the updates.

        Returns:
            Seconds of computing, and seconds of reading and augmenting clips, `(updates,)` each.
        """
        self.train()
        loading_s = np.array(self.collator.taken_s).reshape(-1, self.accumulated).sum(axis=1)
        return np.array(self.stopwatch.taken_s), loading_s


class TimedCollator:
    """Notes the seconds that a collator takes for each batch."""

    def __init__(self, collator: Callable[[Sequence[object]], object]) -> None:
        self.collator = collator
        self.taken_s: list[float] = []

    def __call__(self, rows: Sequence[object]) -> object:
        """Make a batch of rows."""
        start_s = time.perf_counter()
        batch = self.collator(rows)
        self.taken_s.append(time.perf_counter() - start_s)
        return batch


class Stopwatch(TrainerCallback):
    """Notes the seconds of each update, from its first batch, which has been read, to the end of its step."""

    def __init__(self, updates: int, show_progress: bool) -> None:
        self.taken_s: list[float] = []
        self.bar = tqdm(total=updates, desc="Measuring updates", disable=not show_progress, leave=False)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start."""
        self.start_s = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Stop, once the GPU is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.taken_s.append(time.perf_counter() - self.start_s)
        self.bar.update()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Take the bar away."""
        self.bar.close()


def _time_evaluation(trainer: SpeechTrainer) -> float:
    """Seconds that an evaluation of the validation split takes, from those of a few batches of it."""
    validation, size = trainer.eval_dataset, trainer.args.eval_batch_size
    durations_s = np.asarray(validation["duration_s"][:])
    starts = np.arange(0, len(validation), size)
    padded_s = np.array([len(part) * part.max() for part in np.split(durations_s, starts[1:])])  # (batches,)
    chosen = np.unique(np.linspace(0, len(starts) - 1, TIMED_EVALUATION_BATCHES).round().astype(int))
    rows = [row for start in starts[chosen] for row in range(start, min(start + size, len(validation)))]
    trainer.compute_metrics = None  # which takes no time beside the model's
    start_s = time.perf_counter()
    trainer.predict(validation.select(rows))
    return (time.perf_counter() - start_s) * padded_s.sum() / padded_s[chosen].sum()
