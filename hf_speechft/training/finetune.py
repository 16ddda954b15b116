"""The run: load speech, give a text checkpoint its front-end, train, test, save, report, push.

arguments -> corpus -> processor -> filtered splits -> model -> Trainer -> best weights
          -> test, greedy and by beam search -> metrics.json, predictions.jsonl, curves, README.md -> Hub
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from datasets import Dataset, IterableDataset
from safetensors import SafetensorError
from transformers import EarlyStoppingCallback, set_seed

from hf_speechft import SpeechBertForCTC
from hf_speechft.apps.dry_run import show_forecast
from hf_speechft.data.augment import add_silence, check_speed_factors, mark_augmented
from hf_speechft.data.collate import SpeechCollator
from hf_speechft.data.passes import SpeechStream
from hf_speechft.data.text import normalize_text, read_sentences
from hf_speechft.data.unreadable import UNREADABLE_FILE, UnreadableClips
from hf_speechft.decoding.decoder import CTCDecoder
from hf_speechft.decoding.decoder_files import DECODER_FOLDER
from hf_speechft.sharing.card import SplitFacts
from hf_speechft.sharing.push import check_token, push_folder
from hf_speechft.sharing.save import save_atomically
from hf_speechft.training.arguments import Arguments, DataArguments, SpeechTrainingArguments
from hf_speechft.training.augmentation import make_augmentation
from hf_speechft.training.averaging import average_best
from hf_speechft.training.blank import calibrate_blank
from hf_speechft.training.checkpoints import find_start, is_trained, record_arguments, recorded_parts, remove_run
from hf_speechft.training.clock import TrainingClock, minutes_trained
from hf_speechft.training.corpus import (
    advise_metric,
    list_transcripts,
    list_vocabulary_texts,
    mix_training_split,
    read_corpus,
)
from hf_speechft.training.decode import Decoding, DecodingPlan, decode_finally
from hf_speechft.training.epochs import EpochCallback
from hf_speechft.training.memory import REMEDIES, is_out_of_memory, split_batches, train_within_memory
from hf_speechft.training.methods import apply_method, merge_lora
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.recogniser import (
    adopt_speechbert,
    find_rescoring_model,
    is_speechbert,
    make_model,
    make_processor,
)
from hf_speechft.training.report import Prediction, RunFacts, write_report
from hf_speechft.training.selection import EVALUATED, count_unspelled, find_limits, keep_learnable, select_utterances
from hf_speechft.training.sharding import check_sharding, gather_weights
from hf_speechft.training.streaming import StreamTrainer, check_streaming, make_stream
from hf_speechft.training.trainer import SpeechTrainer, error_rates
from hf_speechft.training.unreadable import UnreadableLimit, count_unreadable
from hf_speechft.training.warmup import speak_corpus, warm_up, warmup_facts
from hf_speechft.training.watchdogs import Watchdogs

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line.

    Args:
        argv: Recipe and arguments; the command line's by default.

    Raises:
        SystemExit: With status 1 and the reason on standard error, where the input was wrong, the disk is full,
            memory ran out or the upload failed; with 143 after SIGTERM.
    """
    show_progress()
    try:
        arguments = parse_arguments(argv)
        if arguments[2].dry_run:
            show_forecast(FineTuning(arguments))
            return
        metrics = train_within_memory(FineTuning, arguments)
    except (ValueError, OSError, ImportError) as error:
        logger.debug("where it happened:", exc_info=True)
        raise SystemExit(f"error: {error}") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise SystemExit(f"error: memory ran out: {error}; {REMEDIES}") from None
    if metrics:
        logger.info("test %s, %s; see %s", *_describe_rates(metrics["test"]), arguments[2].output_dir)


def _describe_rates(scores: dict[str, Any]) -> list[str]:
    described = []
    for name in ("wer", "cer"):
        rate, low, high = (100 * fraction for fraction in (scores[name], *scores[f"{name}_interval_95"]))
        described.append(f"{name.upper()} {rate:.1f} % (95 % interval {low:.1f} to {high:.1f})")
    return described


def show_progress() -> None:
    """Show this package's messages, those of the first process where there are several; of the libraries' errors."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    is_first = os.environ.get("RANK", "0") == "0"
    logging.getLogger("hf_speechft").setLevel(logging.INFO if is_first else logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()  # the bars of loading and saving weights
    datasets.utils.logging.set_verbosity_error()


class FineTuning:
    """A run that is ready to train: everything that a user can get wrong was checked while it was made.

    Args:
        arguments: The three dataclasses of `parse_arguments`.
        batch_parts: Parts that each batch is cut into because it did not fit into memory, if the run's folder does not
            say that it was more.

    Raises:
        ValueError: An argument, the data, the checkpoint, the token or the output folder is not usable.
        ImportError: A package of the demo extra is needed and not installed.
    """

    def __init__(self, arguments: Arguments, batch_parts: int = 1) -> None:
        self.model_arguments, self.data_arguments, self.training_arguments = arguments
        check_processes(self.training_arguments)
        self.goes_on = is_speechbert(self.model_arguments)
        if self.goes_on:
            self.model_arguments = adopt_speechbert(self.model_arguments)
            if self.training_arguments.method == "random":
                name = self.model_arguments.model_name_or_path
                raise ValueError(f"--method random needs a text checkpoint; {name} is a SpeechBERT")
        self.rescoring_model = find_rescoring_model(self.model_arguments, self.goes_on)
        self.arguments = arguments = (self.model_arguments, self.data_arguments, self.training_arguments)
        self.folder = Path(self.training_arguments.output_dir)
        self.pushes = self.training_arguments.push_to_hub
        if self.pushes:
            self._claim_repository()
        self.checkpoint = find_start(arguments)
        self.batch_parts = max(batch_parts, recorded_parts(arguments))
        self.training_arguments = split_batches(self.training_arguments, self.batch_parts)
        if self.checkpoint:
            self.training_arguments.eval_on_start = False  # early stopping would count the same weights twice
        use_all_cores(self.training_arguments)
        check_speed_factors(self.data_arguments.speed_factors)
        check_streaming(self.data_arguments, self.training_arguments)
        self.augmentation = make_augmentation(self.data_arguments, self.model_arguments.sampling_rate)
        set_seed(self.training_arguments.seed)
        with self.training_arguments.main_process_first(desc="loading the corpus"):
            corpus = read_corpus(self.data_arguments, self.training_arguments.seed, self.training_arguments.balance_by)
            transcripts = list_transcripts(corpus)
            self.spoken = speak_corpus(self.data_arguments, transcripts, self.training_arguments.seed)
        advise_metric(transcripts, self.training_arguments.metric_for_best_model)
        texts = list_vocabulary_texts(transcripts, self.data_arguments)
        try:
            self.processor = make_processor(self.model_arguments, self.data_arguments, texts)
            model = make_model(self.model_arguments, self.processor)
        except (OSError, SafetensorError) as error:
            name = self.model_arguments.model_name_or_path
            raise ValueError(f"text checkpoint {name!r} cannot be loaded: {' '.join(str(error).split())}") from error
        apply_method(model, self.training_arguments.method)
        self.trainable_parameters = model.num_parameters(only_trainable=True)
        self.splits, self.reports = select_utterances(corpus, self.processor, model, self.data_arguments)
        self.splits["train"] = self._prepare_training_split(self.splits["train"], model)
        if self.spoken is not None:
            self.spoken, _ = keep_learnable(self.spoken, self.processor, model, self.data_arguments, name="warm-up")
        self.lm_lines = read_lm_text(self.data_arguments, transcripts)
        self.unreadable = UnreadableClips(self.folder / UNREADABLE_FILE)
        self.trainer = self._make_trainer(model)
        check_sharding(self.trainer)
        if self.trainer.spells_middle and not self.data_arguments.streaming:
            unspelled, clips = count_unspelled(self.splits["train"], self.processor, model), len(self.splits["train"])
            logger.info(
                "%d of %d clips are too short for the characters that the middle layer learns", unspelled, clips
            )
        if self.trainer.balance is not None:
            logger.info("--balance_by %s: %s", self.training_arguments.balance_by, self.trainer.balance)

    def _claim_repository(self) -> None:
        """Check the token now: a run that cannot be pushed should not find out after hours."""
        training = self.training_arguments
        training.hub_model_id = check_token(training.hub_model_id or self.folder.name, training.hub_token)
        training.push_to_hub = False  # the Trainer would push checkpoints; the finished folder is pushed instead

    def _prepare_training_split(
        self, train: Dataset | IterableDataset, model: SpeechBertForCTC
    ) -> Dataset | SpeechStream:
        """Mix corpora and mark what is augmented; or make an endless stream, which does all that as it passes."""
        data, training, augmentation = self.data_arguments, self.training_arguments, self.augmentation
        if data.streaming:
            limits = find_limits(self.processor, model, data, data.speed_factors)
            return make_stream(train, self.processor, limits, data, training, augmented=augmentation is not None)
        train = mix_training_split(train, data, training.seed)
        if augmentation is None:
            return train
        return mark_augmented(add_silence(train, augmentation.silence_share, training.seed))

    def _make_trainer(self, model: SpeechBertForCTC) -> SpeechTrainer:
        patience = self.training_arguments.early_stopping_patience
        collator = SpeechCollator(self.processor, self.augmentation, self.training_arguments.seed, self.unreadable)
        bears_with, recordings = self.data_arguments.max_corrupt_files, self._count_recordings()
        trainer_class = StreamTrainer if self.data_arguments.streaming else SpeechTrainer
        return trainer_class(
            model=model,
            args=self.training_arguments,
            data_collator=collator,
            train_dataset=self.splits["train"],
            eval_dataset=self.splits["validation"],
            processing_class=self.processor,
            compute_metrics=error_rates(self.processor, self.splits["validation"]["text"]),
            callbacks=[
                TrainingClock(),
                EpochCallback(collator),
                Watchdogs(),
                UnreadableLimit(self.unreadable, bears_with, recordings),
                *([EarlyStoppingCallback(patience)] if patience else []),
            ],
        )

    def _count_recordings(self) -> int:
        """Count the recordings of the training split, or those that a stream will be read for at most."""
        if not self.data_arguments.streaming:
            return self.reports["train"].kept
        training = self.training_arguments
        clips = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
        return training.max_steps * clips

    def train_and_report(self) -> dict[str, object]:
        """Train, save the best weights, decode the test split, write the report, push if asked.

        Returns:
            What metrics.json holds.

        Raises:
            HubError: The upload failed; the message has the command that uploads the folder later.
            SaveError: The disk is full; the checkpoints are whole, and the same command goes on from the last.
            TrainingError: The loss is not a number.
            ValueError: More files than `--max_corrupt_files` cannot be read.
            SystemExit: With status 143, after SIGTERM; the same command goes on from the checkpoint.
        """
        if self.checkpoint:
            logger.info("going on from %s", self.checkpoint)
        if self.trainer.is_world_process_zero():
            if self.training_arguments.overwrite_output_dir and not self.checkpoint:
                remove_run(self.folder)
            record_arguments(self.arguments, self.batch_parts)
        if not self.checkpoint:
            self.unreadable.forget()
        self.trainer.accelerator.wait_for_everyone()  # the main process may have removed an earlier run
        if self.spoken is not None and not self.checkpoint:
            warm_up(self.trainer.model, self.processor, self.spoken, self.training_arguments)
        self._train()
        averaged = average_best(self.trainer, self.splits["validation"], self.training_arguments.average_checkpoints)
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        merge_lora(model)
        blank_penalty = calibrate_blank(self.trainer, self.splits["validation"])
        predictions = self._decode_test()
        if not self.trainer.is_world_process_zero():
            return {}
        save_atomically(self.folder, lambda folder: self._save(model, folder))
        decodings, decoder = self._decode_by_beam_search(model)
        if decoder is not None:
            save_atomically(self.folder, lambda folder: decoder.save_pretrained(folder / DECODER_FOLDER))
        warmup = None
        if self.spoken is not None:
            warmup = warmup_facts(self.data_arguments, self.spoken, self.training_arguments)
        facts = RunFacts(
            parameters=model.num_parameters(),
            trainable_parameters=self.trainable_parameters,
            vocabulary_size=model.config.vocab_size,
            goes_on=self.goes_on,
            attention=model.config.attention,
            splits=[self.split_facts(name) for name in self.splits],
            predictions=predictions,
            decodings=decodings,
            log_history=self.trainer.state.log_history,
            optimizer_steps=self.trainer.state.global_step,
            epochs=None if self.data_arguments.streaming else round(self.trainer.state.epoch, 2),
            minutes=minutes_trained(self.trainer.state),
            averaged=averaged,
            blank_penalty=blank_penalty,
            warmup=warmup,
        )
        metrics: dict[str, object] = {}
        save_atomically(self.folder, lambda folder: metrics.update(write_report(folder, self.arguments, facts)))
        if self.pushes:
            training = self.training_arguments
            private = training.hub_private_repo
            url = push_folder(self.folder, training.hub_model_id, token=training.hub_token, private=private)
            logger.info("pushed to %s", url)
        return metrics

    def _train(self) -> None:
        """Train, unless training had ended before the run was killed, while it was decoding or saving."""
        asked = self.training_arguments.resume_from_checkpoint  # who names a checkpoint may want to train for longer
        if self.checkpoint and self.checkpoint != asked and is_trained(self.checkpoint):
            self.trainer.restore(self.checkpoint)
        else:
            self.trainer.train(resume_from_checkpoint=self.checkpoint)
            gather_weights(self.trainer)

    def _save(self, model: SpeechBertForCTC, folder: Path) -> None:
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _decode_test(self) -> list[Prediction]:
        test = self.splits["test"]
        self.trainer.compute_metrics = None  # it belongs to the validation split
        ids = self.trainer.predict(test).predictions
        hypotheses = self.processor.batch_decode(ids, skip_special_tokens=True)
        references = map(self.processor.tokenizer.written, test["text"])
        rows = zip(test["utterance_id"], references, hypotheses, strict=True)
        return [Prediction(*row) for row in rows]

    def _decode_by_beam_search(self, model: SpeechBertForCTC) -> tuple[list[Decoding], CTCDecoder | None]:
        training = self.training_arguments
        if training.beam_width == 1:
            return [], None
        named = self.model_arguments.rescoring_model is not None
        plan = DecodingPlan(
            beam_width=training.beam_width,
            lm_order=training.lm_order,
            lm_lines=self.lm_lines,
            rescoring_model=self.rescoring_model,
            rescoring_revision=None if named else self.model_arguments.model_revision,
            batch_size=training.per_device_eval_batch_size,
            show_progress=not training.disable_tqdm,
            unreadable=self.unreadable,
        )
        return decode_finally(model, self.processor, self.splits["validation"], self.splits["test"], plan)

    def split_facts(self, name: str) -> SplitFacts:
        """What a split holds as used, and what was dropped from it."""
        if name == "train" and self.data_arguments.streaming:
            report, speakers, ids = self.trainer.report(), set(), self._unreadable_of_stream()
        else:
            report, speakers = self.reports[name], set(self.splits[name]["speaker_id"]) - {""}
            ids = self.splits[name]["utterance_id"]
        return SplitFacts(
            name=name,
            utterances=report.kept,
            duration_s=report.kept_s,
            speakers=len(speakers) or None,
            dropped={reason: len(ids) for reason, ids in report.dropped.items()},
            unreadable=count_unreadable(self.unreadable, ids),
        )

    def _unreadable_of_stream(self) -> list[str]:
        evaluated = {one for name in EVALUATED for one in self.splits[name]["utterance_id"]}
        return [clip.utterance_id for clip in self.unreadable.all() if clip.utterance_id not in evaluated]


def check_processes(training: SpeechTrainingArguments) -> None:
    """Refuse several GPUs in one process, where the Trainer would neither use bfloat16 nor weigh clips alike.

    Raises:
        ValueError: There are several.
    """
    if training.n_gpu > 1:
        raise ValueError(
            f"one process was started and sees {training.n_gpu} GPUs; start `accelerate launch --num_processes "
            f"{training.n_gpu} run_finetune.py …` to use them all, or show it one with CUDA_VISIBLE_DEVICES=0"
        )


def use_all_cores(training: SpeechTrainingArguments) -> None:
    """Share the cores among this machine's processes when training on a CPU.

    `accelerate launch` sets OMP_NUM_THREADS to 1 unless it is set, which would leave the other cores idle.
    """
    if training.use_cpu and os.environ.get("OMP_NUM_THREADS") == "1":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def read_lm_text(data: DataArguments, transcripts: list[str]) -> list[str]:
    """Lines for the n-gram model.

    Raises:
        ValueError: The text file is missing or holds no word.
    """
    if data.lm_text is None:
        return transcripts
    sentences = read_sentences(data.lm_text, "--lm_text")
    lines = [line for sentence in sentences if (line := normalize_text(sentence, data.text_normalizer))]
    if not lines:
        raise ValueError(f"--lm_text {data.lm_text} holds no word; give a text file with one sentence a line")
    return lines
