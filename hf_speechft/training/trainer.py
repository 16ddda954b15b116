"""SpeechTrainer: the Hugging Face Trainer with two learning rates and greedy CTC decoding at evaluation."""

import errno
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path

import torch
from accelerate.utils.memory import clear_device_cache
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import EvalPrediction, Trainer, TrainerState
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, rotate_checkpoints, seed_worker

from hf_speechft.data.balance import ClassBalance
from hf_speechft.data.batching import SecondsBatchSampler, padding_share
from hf_speechft.model.ctc_speechbert import ctc_loss, needed_steps
from hf_speechft.model.processing_speechbert import SpeechBertProcessor
from hf_speechft.scoring.metrics import CER, WER
from hf_speechft.sharing.save import FULL_BELOW_BYTES, SaveError
from hf_speechft.training.arguments import SpeechTrainingArguments
from hf_speechft.training.checkpoints import STATE_FILE, UNEVALUATED_FOLDER
from hf_speechft.training.dropout import draw_bytes
from hf_speechft.training.epochs import check_clean_epochs, is_clean_epoch, unmasked
from hf_speechft.training.memory import halve_evaluation, is_out_of_memory, naming_batch
from hf_speechft.training.optim import group_parameters, hold_waiting_groups, step_schedule
from hf_speechft.training.preemption import Preemption
from hf_speechft.training.sampler import EpochSampler
from hf_speechft.training.sharding import is_sharding, read_weights
from hf_speechft.training.unreadable import keep_readable
from hf_speechft.training.watchdogs import check_weights

logger = logging.getLogger(__name__)


class SpeechTrainer(Trainer):
    """Trains a `SpeechBertForCTC`; predictions are the best unit of each step, blank or -100 where there is none."""

    args: SpeechTrainingArguments

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if self.args.clean_epochs and self.args.max_steps > 0:
            check_clean_epochs(self.args, self._updates_per_epoch())
        draw_bytes(self.model)
        self._preemption = Preemption()
        self.add_callback(self._preemption)

    def train(self, *args: object, **kwargs: object) -> TrainOutput:
        """Train as the Trainer does; SIGTERM saves a checkpoint and ends the process (`preemption.py`)."""
        with self._preemption.listening(self.args):
            return super().train(*args, **kwargs)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimiser that `--optim` names, with a learning rate for the body and one for the rest."""
        if self.optimizer is None:
            trained = self.model if model is None else model
            unwrapped = self.accelerator.unwrap_model(trained)
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            groups = group_parameters(
                unwrapped,
                learning_rate=self.args.learning_rate,
                new_learning_rate=self.args.new_learning_rate,
                weight_decay=self.args.weight_decay,
                decayed=self.get_decay_parameter_names(unwrapped),
                staged=self.args.method == "staged",
            )
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Make the schedule: decay in steps where `--step_lr_epochs` is given, else `--lr_scheduler_type`."""
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        if self.args.step_lr_epochs is None:
            scheduler = super().create_scheduler(num_training_steps, optimizer)
            if self.args.method == "staged":
                hold_waiting_groups(scheduler, num_training_steps)
            return scheduler
        self.lr_scheduler = step_schedule(
            self.optimizer if optimizer is None else optimizer,
            steps_per_decay=max(1, round(self._updates_per_epoch() * self.args.step_lr_epochs)),
            gamma=self.args.step_lr_gamma,
        )
        self._created_lr_scheduler = True  # the Trainer steps and saves it
        return self.lr_scheduler

    def _updates_per_epoch(self) -> int:
        if self.args.batch_seconds is None:
            batches = math.ceil(len(self.train_dataset) / (self._train_batch_size * self.args.world_size))
        else:
            batches = len(self._batch_sampler) // self.args.world_size
        return math.ceil(batches / self.args.gradient_accumulation_steps)

    def _get_output_dir(self, trial: object) -> str:
        """Give a checkpoint that was not evaluated a folder of its own."""
        folder = super()._get_output_dir(trial)
        return str(Path(folder, UNEVALUATED_FOLDER)) if self._preemption.is_between else folder

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        """Save as the Trainer does; where the disk is full, say so, and free what was written in vain."""
        check_weights(model, self.args)
        folder, unevaluated = Path(self._get_output_dir(trial)), Path(self.args.output_dir, UNEVALUATED_FOLDER)
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save and folder != unevaluated:
                shutil.rmtree(unevaluated, ignore_errors=True)  # what is evaluated is newer
            elif self.args.should_save:
                rotate_checkpoints(str(folder), save_total_limit=1, use_mtime=True)
        except Exception as error:  # the class depends on the library that was writing
            if not _disk_is_full(error, self.args.output_dir):
                raise
            shutil.rmtree(folder / f"checkpoint-{self.state.global_step}", ignore_errors=True)
            raise SaveError(
                errno.ENOSPC,
                f"the disk is full or the quota used up: checkpoint-{self.state.global_step} could not be saved in "
                f"{self.args.output_dir}; those before it are whole. Free space and give the same command to go on",
            ) from error

    def restore(self, checkpoint: str) -> None:
        """Take over a checkpoint in which training had ended; the Trainer itself would make one more update."""
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / STATE_FILE))
        best = self.state.best_model_checkpoint
        if best is not None and not Path(best).is_dir():  # the run's folder was moved
            self.state.best_model_checkpoint = best = str(Path(self.args.output_dir) / Path(best).name)
        has_best = self.args.load_best_model_at_end and best is not None and Path(best).is_dir()
        if is_sharding(self):
            read_weights(self, best if has_best else checkpoint)
        elif has_best:
            self._load_best_model()
        else:
            self._load_from_checkpoint(checkpoint)

    def get_train_dataloader(self) -> DataLoader:
        """Make batches by seconds where `--batch_seconds` is given, else those of the Trainer.

        An update is the mean over the utterances of all its batches (`compute_loss`), so with batches by seconds, of
        which those of long clips hold few, long clips weigh more than short ones; see `SecondsBatchSampler`.
        """
        if self.args.batch_seconds is None:
            return super().get_train_dataloader()
        args, sampler = self.args, self._batch_sampler
        if self.is_world_process_zero():
            share = padding_share(sampler.make_batches(0), sampler.durations_s)
            logger.info(
                "%d batches an epoch, %g s at most; %.1f %% is padding",
                *(len(sampler), args.batch_seconds, 100 * share),
            )
        loader = DataLoader(  # the Trainer's own, which takes no batch sampler
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        )
        return self.accelerator.prepare(loader)

    @cached_property
    def _batch_sampler(self) -> SecondsBatchSampler:
        return SecondsBatchSampler(
            self.train_dataset[self.args.length_column_name][:],
            self.args.batch_seconds * max(1, self.args.n_gpu),  # torch.nn.DataParallel cuts a batch up
            max_clips=self.args.batch_clips and self.args.batch_clips * max(1, self.args.n_gpu),
            num_processes=self.args.world_size,
            seed=self._order_seed,
            find_epoch=self._find_epoch,
            draw=self.balance and self.balance.draw,
        )

    @cached_property
    def balance(self) -> ClassBalance | None:
        """Draws the clips of an epoch where `--balance_by` is given.

        Raises:
            ValueError: The training split has no such column, or fewer than two classes in it.
        """
        column = self.args.balance_by
        if column is None:
            return None
        if column not in (self.train_dataset.column_names or ()):
            known = ", ".join(self.train_dataset.column_names or ())
            raise ValueError(f"--balance_by {column}: the training split has no such column; it has {known}")
        try:
            return ClassBalance(self.train_dataset[column][:], power=self.args.balance_power, seed=self._order_seed)
        except ValueError as error:
            raise ValueError(f"--balance_by {column}: {error}") from error

    @cached_property
    def spells_middle(self) -> bool:
        """Whether the middle layer learns characters, because the last one learns longer units.

        Words are too far from sound to be found in it from the start; characters lead there (arXiv:1807.07104).
        """
        tokenizer = getattr(self.processing_class, "tokenizer", None)
        learns_longer_units = tokenizer is not None and tokenizer.checkpoint_ids is not None
        return learns_longer_units and self.accelerator.unwrap_model(self.model).config.intermediate_ctc_weight > 0

    @property
    def _order_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _find_epoch(self) -> int:
        return self.state.global_step // self._updates_per_epoch()

    def _get_train_sampler(self, train_dataset: torch.utils.data.Dataset | None = None) -> Sampler | None:
        """Group by length in an order that depends on the seed and the epoch only."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return EpochSampler(
            self.args.train_batch_size * self.args.gradient_accumulation_steps,
            lengths=dataset[self.args.length_column_name][:],
            find_seed=lambda: self._order_seed + self._find_epoch(),
            draw=None if self.balance is None else lambda: self.balance.draw(self._find_epoch()),
        )

    def _get_eval_sampler(self, eval_dataset: torch.utils.data.Dataset) -> SequentialSampler:
        """Keep the order of the data, which references rely on; the Trainer would group by length here too."""
        return SequentialSampler(eval_dataset)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Learn from a batch as the Trainer does; where memory runs out, say what to do."""
        config = self.accelerator.unwrap_model(model).config
        as_it_is = unmasked(config) if is_clean_epoch(self.args, self.state) else nullcontext()
        with naming_batch(self.args, len(inputs["labels"])), as_it_is:
            return super().training_step(model, inputs, num_items_in_batch)

    def evaluation_loop(self, dataloader: DataLoader, *args: object, **kwargs: object) -> EvalLoopOutput:
        """Evaluate as the Trainer does; where memory runs out, again with half as many clips in a batch."""
        while True:
            try:
                with self._preemption.holding_back():
                    return super().evaluation_loop(dataloader, *args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            halve_evaluation(self.args)
            self.__dict__.pop("_eval_dataloaders", None)  # where workers persist, the Trainer keeps loaders
            clear_device_cache(garbage_collection=True)
            dataloader = self.get_test_dataloader(dataloader.dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
        """Take the batches of an update, and count the utterances that they learn from over all processes."""
        with self._preemption.holding_back():
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        utterances = torch.tensor(sum(keep_readable(batch)[1] for batch in batches), device=device)
        return batches, self.accelerator.reduce(utterances)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, object]:
        """Weigh a batch by its utterances, so that an update is the mean over those of all batches and processes.

        The model's loss is a mean over a batch; gradients are averaged over processes, and the Trainer divides by the
        number of batches. Both are undone: `loss * utterances * processes * batches / utterances of the update`.
        Clips that the collator could not read are left out. A batch of none but those goes through the model all the
        same, for other processes wait for its gradient, which is zero.
        """
        inputs, readable = keep_readable(inputs)
        if self.spells_middle:
            inputs["middle_targets"] = self.processing_class.tokenizer.spell(inputs["labels"])
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if num_items_in_batch is not None:
            batches = self.args.world_size * self.current_gradient_accumulation_steps
            loss = loss * (readable * batches / num_items_in_batch.clamp(min=1))
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Decode a batch greedily; the loss is over the utterances that can be aligned, 0 if none can.

        Of a clip that the collator could not read, nothing is recognised: all its words count as deleted.
        What fills up the last batches of several processes is out of the loss, as the Trainer drops its predictions.

        Returns:
            The loss, ids `(batch, steps)` and labels `(batch, tokens)`.
        """
        inputs = dict(self._prepare_inputs(inputs))
        labels = inputs.pop("labels")
        unreadable = inputs.pop("unreadable", torch.zeros(len(labels), dtype=torch.bool, device=labels.device))
        recogniser = self.accelerator.unwrap_model(model)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits  # (batch, steps, vocab)
        step_lengths = recogniser.step_lengths(**inputs)
        alignable = (needed_steps(labels) <= step_lengths) & ~unreadable
        alignable &= self._is_first_time(len(labels)).to(labels.device)
        loss = logits.new_zeros((), dtype=torch.float32)
        if alignable.any():
            loss = ctc_loss(logits[alignable], step_lengths[alignable], labels[alignable], recogniser.config)
        if prediction_loss_only:
            return loss, None, None
        ids = logits.argmax(dim=-1)
        ids[unreadable] = recogniser.config.pad_token_id  # blanks
        return loss, ids, labels

    def _is_first_time(self, utterances: int) -> torch.Tensor:
        """Tell the utterances of a batch from those that Accelerate repeats to fill up the last one, `(batch,)`."""
        state = self.accelerator.gradient_state
        is_filled_up = self.args.world_size > 1 and state.end_of_dataloader and state.remainder > 0
        place = self.args.process_index * utterances + torch.arange(utterances)  # in the batches of all processes
        return place < (state.remainder if is_filled_up else math.inf)


def _disk_is_full(error: Exception, folder: str) -> bool:
    """Tell a full disk from other failures; torch.save, for one, does not say it."""
    number = error.errno if isinstance(error, OSError) else None
    said = number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
    return said or shutil.disk_usage(folder).free < FULL_BELOW_BYTES


def error_rates(
    processor: SpeechBertProcessor, references: Sequence[str]
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the Trainer's `compute_metrics`: WER and CER of greedy hypotheses, and the share of empty ones.

    Args:
        processor: Turns ids into text.
        references: Transcripts in the order of the evaluated split.
    """
    references = list(map(processor.tokenizer.written, references))

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        hypotheses = processor.batch_decode(prediction.predictions, skip_special_tokens=True)
        scores = {}
        for metric in (WER(), CER()):
            scores |= metric.compute(predictions=hypotheses, references=references)
        empty = [not hypothesis for hypothesis, reference in zip(hypotheses, references, strict=True) if reference]
        return scores | {"empty": sum(empty) / max(1, len(empty))}

    return compute
