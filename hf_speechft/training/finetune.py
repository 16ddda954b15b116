"""The run: load speech, give a text checkpoint its front-end, train, test, save, report, push.

arguments -> corpus -> processor -> filtered splits -> model -> Trainer -> best weights
          -> test, greedy and by beam search -> metrics.json, predictions.jsonl, curves, README.md -> Hub
"""

import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
import transformers
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from transformers import EarlyStoppingCallback, set_seed

from hf_speechft import SpeechBertForCTC, SpeechBertProcessor
from hf_speechft.apps.dry_run import show_forecast
from hf_speechft.data.augment import add_silence, check_speed_factors, expand_speeds, mark_augmented
from hf_speechft.data.collate import SpeechCollator
from hf_speechft.data.corpora import load_corpus
from hf_speechft.data.filters import FilterReport, count_ctc_steps, filter_corpus
from hf_speechft.data.text import read_sentences
from hf_speechft.data.unreadable import UNREADABLE_FILE, UnreadableClips
from hf_speechft.decoding.decoder import CTCDecoder
from hf_speechft.decoding.decoder_files import DECODER_FOLDER
from hf_speechft.model.frontend_speechbert import output_lengths
from hf_speechft.sharing.card import SplitFacts
from hf_speechft.sharing.push import check_token, push_folder
from hf_speechft.sharing.save import save_atomically
from hf_speechft.training.arguments import Arguments, DataArguments, SpeechTrainingArguments
from hf_speechft.training.augmentation import EpochCallback, make_augmentation
from hf_speechft.training.averaging import average_best
from hf_speechft.training.checkpoints import find_start, is_trained, record_arguments, recorded_parts, remove_run
from hf_speechft.training.decode import Decoding, DecodingPlan, decode_finally
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
from hf_speechft.training.sharding import check_sharding, gather_weights
from hf_speechft.training.trainer import SpeechTrainer, TrainingClock, error_rates, minutes_trained
from hf_speechft.training.unreadable import UnreadableLimit, count_unreadable
from hf_speechft.training.warmup import speak_corpus, warm_up, warmup_facts
from hf_speechft.training.watchdogs import Watchdogs

logger = logging.getLogger(__name__)

EVALUATED = ("validation", "test")


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
        low, high = metrics["test"]["wer_interval_95"]
        rate = metrics["test"]["wer"]
        folder = arguments[2].output_dir
        logger.info("test WER %.1f %% (95 %% interval %.1f to %.1f); see %s", *_percent(rate, low, high), folder)


def _percent(*fractions: float) -> list[float]:
    return [100 * fraction for fraction in fractions]


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
        use_all_cores(self.training_arguments)
        check_speed_factors(self.data_arguments.speed_factors)
        self.augmentation = make_augmentation(self.data_arguments, self.model_arguments.sampling_rate)
        set_seed(self.training_arguments.seed)
        with self.training_arguments.main_process_first(desc="loading the corpus"):
            corpus = read_corpus(self.data_arguments, self.training_arguments.seed, self.training_arguments.balance_by)
            self.spoken = speak_corpus(self.data_arguments, corpus["train"]["text"][:], self.training_arguments.seed)
        try:
            self.processor = make_processor(self.model_arguments, self.data_arguments, corpus["train"]["text"])
            model = make_model(self.model_arguments, self.processor)
        except (OSError, SafetensorError) as error:
            name = self.model_arguments.model_name_or_path
            raise ValueError(f"text checkpoint {name!r} cannot be loaded: {' '.join(str(error).split())}") from error
        apply_method(model, self.training_arguments.method)
        self.trainable_parameters = model.num_parameters(only_trainable=True)
        self.splits, self.reports = select_utterances(corpus, self.processor, model, self.data_arguments)
        if self.augmentation is not None:
            seed, silence_share = self.training_arguments.seed, self.augmentation.silence_share
            self.splits["train"] = mark_augmented(add_silence(self.splits["train"], silence_share, seed))
        if self.spoken is not None:
            self.spoken, _ = keep_learnable(self.spoken, self.processor, model, self.data_arguments, name="warm-up")
        self.lm_lines = read_lm_text(self.data_arguments, corpus)
        self.unreadable = UnreadableClips(self.folder / UNREADABLE_FILE)
        self.trainer = self._make_trainer(model)
        check_sharding(self.trainer)
        if self.trainer.balance is not None:
            logger.info("--balance_by %s: %s", self.training_arguments.balance_by, self.trainer.balance)

    def _claim_repository(self) -> None:
        """Check the token now: a run that cannot be pushed should not find out after hours."""
        training = self.training_arguments
        training.hub_model_id = check_token(training.hub_model_id or self.folder.name, training.hub_token)
        training.push_to_hub = False  # the Trainer would push checkpoints; the finished folder is pushed instead

    def _make_trainer(self, model: SpeechBertForCTC) -> SpeechTrainer:
        patience = self.training_arguments.early_stopping_patience
        collator = SpeechCollator(self.processor, self.augmentation, self.training_arguments.seed, self.unreadable)
        bears_with, recordings = self.data_arguments.max_corrupt_files, self.reports["train"].kept
        return SpeechTrainer(
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
            epochs=round(self.trainer.state.epoch, 2),
            minutes=minutes_trained(self.trainer.state),
            averaged=averaged,
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
        rows = zip(test["utterance_id"], test["text"], hypotheses, strict=True)
        return [Prediction(*row) for row in rows]

    def _decode_by_beam_search(self, model: SpeechBertForCTC) -> tuple[list[Decoding], CTCDecoder | None]:
        training = self.training_arguments
        if training.beam_width == 1:
            return [], None
        plan = DecodingPlan(
            beam_width=training.beam_width,
            lm_order=training.lm_order,
            lm_lines=self.lm_lines,
            rescoring_model=self.rescoring_model,
            batch_size=training.per_device_eval_batch_size,
            show_progress=not training.disable_tqdm,
            unreadable=self.unreadable,
        )
        return decode_finally(model, self.processor, self.splits["validation"], self.splits["test"], plan)

    def split_facts(self, name: str) -> SplitFacts:
        """What a split holds as used, and what was dropped from it."""
        split, report = self.splits[name], self.reports[name]
        speakers = set(split["speaker_id"]) - {""}
        return SplitFacts(
            name=name,
            utterances=report.kept,
            duration_s=report.kept_s,
            speakers=len(speakers) or None,
            dropped={reason: len(ids) for reason, ids in report.dropped.items()},
            unreadable=count_unreadable(self.unreadable, split["utterance_id"]),
        )


def use_all_cores(training: SpeechTrainingArguments) -> None:
    """Share the cores among this machine's processes when training on a CPU.

    `accelerate launch` sets OMP_NUM_THREADS to 1 unless it is set, which would leave the other cores idle.
    """
    if training.use_cpu and os.environ.get("OMP_NUM_THREADS") == "1":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def read_corpus(data: DataArguments, seed: int, class_column: str | None = None) -> DatasetDict:
    """Load the corpus that the arguments name; its training split keeps the column of classes.

    Raises:
        ValueError: None is named, or it cannot be used.
    """
    if data.dataset is None:
        raise ValueError("no data set was given; use --dataset, or a recipe such as recipes/demo.yaml")
    return load_corpus(
        data.dataset,
        config_name=data.dataset_config_name,
        train_split=data.train_split,
        validation_split=data.validation_split,
        test_split=data.test_split,
        audio_column=data.audio_column,
        text_column=data.text_column,
        speaker_column=data.speaker_column,
        class_column=class_column,
        normalizer=data.text_normalizer,
        seed=seed,
        cache_dir=data.cache_dir,
    )


def read_lm_text(data: DataArguments, corpus: DatasetDict) -> list[str]:
    """Lines for the n-gram model.

    Raises:
        ValueError: The text file is missing or holds no word.
    """
    if data.lm_text is None:
        return corpus["train"]["text"][:]
    lines = read_sentences(data.lm_text, "--lm_text")
    if not lines:
        raise ValueError(f"--lm_text {data.lm_text} holds no word; give a text file with one sentence a line")
    return lines


def select_utterances(
    corpus: DatasetDict, processor: SpeechBertProcessor, model: SpeechBertForCTC, data: DataArguments
) -> tuple[dict[str, Dataset], dict[str, FilterReport]]:
    """Drop what cannot be used, put each split into its order, and repeat training clips at other speeds.

    From the training split goes what is unreadable, empty, too short, too long or cannot be aligned, at any of the
    speeds. The other splits lose only what cannot be decoded at all: without the hard ones the result would flatter.

    Raises:
        ValueError: A split has nothing left.
    """
    train, report = keep_learnable(corpus["train"], processor, model, data, speeds=data.speed_factors, name="train")
    splits, reports = {"train": train}, {"train": report}
    if data.speed_factors != [1.0]:
        splits["train"] = expand_speeds(train, data.speed_factors)
    shortest_s, longest_s = duration_limits(processor, model)
    for name in EVALUATED:
        kept, reports[name] = filter_corpus(
            corpus[name], min_duration_s=shortest_s, max_duration_s=longest_s, name=name
        )
        durations = kept["duration_s"]
        splits[name] = kept.select(sorted(range(len(kept)), key=durations.__getitem__))  # little padding in a batch
    return splits, reports


def keep_learnable(
    dataset: Dataset,
    processor: SpeechBertProcessor,
    model: SpeechBertForCTC,
    data: DataArguments,
    *,
    speeds: Sequence[float] = (1.0,),
    name: str,
) -> tuple[Dataset, FilterReport]:
    """Drop what is unreadable, empty, too short, too long or cannot be aligned, at any of the speeds.

    Raises:
        ValueError: Nothing is left.
    """
    extractor, config = processor.feature_extractor, model.config
    shortest_s, longest_s = duration_limits(processor, model)
    slowest, fastest = min(speeds), max(speeds)

    def count_steps(duration_s: float) -> int:
        samples = math.floor(duration_s / fastest * extractor.sampling_rate)
        return output_lengths(extractor.frame_count(samples), config.subsampling)

    return filter_corpus(
        dataset,
        min_duration_s=max(data.min_duration_s, shortest_s) * fastest,
        max_duration_s=min(data.max_duration_s, longest_s) * slowest,
        count_steps=count_steps,
        count_needed_steps=lambda text: count_needed_steps(processor, text),
        name=name,
    )


def duration_limits(processor: SpeechBertProcessor, model: SpeechBertForCTC) -> tuple[float, float]:
    """Seconds of the shortest and of the longest clip that the model takes."""
    extractor, config = processor.feature_extractor, model.config
    shortest_s = (extractor.frame_length + 1) / extractor.sampling_rate
    max_steps = model.speechbert.max_steps
    longest_s = max_steps * config.inputs_to_logits_ratio / config.sampling_rate if max_steps else math.inf
    return shortest_s, longest_s


def count_needed_steps(processor: SpeechBertProcessor, text: str) -> int:
    """Steps that CTC needs for a transcript in the processor's units."""
    return count_ctc_steps(processor.tokenizer.tokenize(text))
