"""A first stage on synthetic speech: espeak-ng speaks a text, and the model learns from it before it hears people.

Synthetic speech is free and unlimited. What it teaches (which sounds a letter has, and to align them) is what a small
real corpus spends its first epochs on. Compare Rosenberg et al., "Speech Recognition with Augmented Synthesized
Speech", 2019 (arXiv:1909.11699).
"""

import copy
import dataclasses
import itertools
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from transformers import TrainerState, set_seed

from hf_speechft import SpeechBertForCTC, SpeechBertProcessor
from hf_speechft.data.collate import SpeechCollator
from hf_speechft.data.spoken import load_spoken, plan_lines
from hf_speechft.data.text import normalize_text, read_sentences, read_text
from hf_speechft.decoding.jsgf_sentences import draw_sentences
from hf_speechft.training.arguments import DataArguments, SpeechTrainingArguments
from hf_speechft.training.checkpoints import STATE_FILE, WARMUP_FOLDER, is_trained, whole_checkpoints
from hf_speechft.training.clock import TrainingClock, minutes_trained
from hf_speechft.training.sharding import gather_weights
from hf_speechft.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)

TRANSCRIPTS, GRAMMAR_SUFFIX = "train", ".jsgf"
NEED_EVALUATIONS = ("reduce_lr_on_plateau", "greedy")  # schedules; the stage has no split to evaluate


@dataclass(frozen=True)
class WarmupFacts:
    """What a report says about the stage: its text, utterances, seconds of speech, epochs and minutes."""

    text: str
    utterances: int
    duration_s: float
    epochs: float
    minutes: float


def speak_corpus(data: DataArguments, transcripts: list[str], seed: int) -> Dataset | None:
    """Speak the texts that `--warmup_corpus` names, each in as many utterances as the others.

    Args:
        data: Names the texts, how many utterances to speak and their language.
        transcripts: Of the training split, for the corpus `train`. Other lines need to be written with their
            characters, since others would be units that real speech never teaches.
        seed: Of voices, speeds and noise.

    Returns:
        Utterances as those of `load_corpus`; None where there is no such stage.

    Raises:
        ValueError: A file is missing, a grammar is none, or no line can be used.
        ImportError: espeakng-loader is not installed.
    """
    if not data.warmup_corpus:
        return None
    share = math.ceil(data.warmup_utterances / len(data.warmup_corpus))
    lines: list[str] = []
    for text in data.warmup_corpus:
        of_text = transcripts if text == TRANSCRIPTS else _known_lines(text, share, seed, data, transcripts)
        lines += itertools.islice(itertools.cycle(line for line in of_text if line.strip()), share)
    plan = plan_lines(lines, data.warmup_utterances, seed=seed, language=data.warmup_language)
    return load_spoken(plan, name="warm-up", seed=seed, cache_dir=data.cache_dir)["train"]


def _known_lines(text: str, sentences: int, seed: int, data: DataArguments, transcripts: list[str]) -> list[str]:
    """Take the lines of a file or grammar that are in the transcripts' characters."""
    given = _read_lines(text, sentences, seed)
    given = [line for sentence in given if (line := normalize_text(sentence, data.text_normalizer))]
    known = set().union(*transcripts, " ")
    lines = [line for line in given if known.issuperset(line)]
    if len(lines) < len(given):
        foreign = "".join(sorted(set().union(*given) - known))
        logger.warning(
            "%s: %d of %d lines left out, for characters that no training transcript has: %s",
            *(text, len(given) - len(lines), len(given), foreign),
        )
    if not lines:
        raise ValueError(f"--warmup_corpus {text} holds no line in the characters of the training transcripts")
    return lines


def _read_lines(text: str, sentences: int, seed: int) -> list[str]:
    if Path(text).suffix != GRAMMAR_SUFFIX:
        or_else = f", a JSGF grammar (*{GRAMMAR_SUFFIX}), or {TRANSCRIPTS!r} for the training transcripts"
        return read_sentences(text, "--warmup_corpus", or_else)
    try:
        return draw_sentences(read_text(text), sentences, seed)
    except ValueError as error:
        raise ValueError(f"--warmup_corpus {text}: {error}") from error


def warm_up(
    model: SpeechBertForCTC,
    processor: SpeechBertProcessor,
    spoken: Dataset,
    training: SpeechTrainingArguments,
) -> None:
    """Train a model on spoken text, in place; a stage that was interrupted goes on, one that was finished is read.

    Args:
        model: Gets the weights at the end of the stage.
        processor: The model's.
        spoken: From `speak_corpus`.
        training: Of the run; the stage has the same learning rates, and a schedule and `--warmup_epochs` of its own.
    """
    trainer = make_warmup_trainer(model, processor, spoken, training)
    checkpoints = whole_checkpoints(Path(trainer.args.output_dir))
    last = str(checkpoints[-1]) if checkpoints else None
    if last and is_trained(last):
        trainer.restore(last)
    else:
        trainer.train(resume_from_checkpoint=last)
        gather_weights(trainer)
    model.load_state_dict(trainer.accelerator.unwrap_model(trainer.model).state_dict())
    set_seed(training.seed)  # what follows is the same whether the stage was trained now or before


def make_warmup_trainer(
    model: SpeechBertForCTC,
    processor: SpeechBertProcessor,
    spoken: Dataset,
    training: SpeechTrainingArguments,
) -> SpeechTrainer:
    """Make what trains a copy of a model on spoken text; the arguments are those of `warm_up`."""
    learner = copy.deepcopy(model)  # a model that a Trainer has prepared is not prepared again
    without_evaluations = {}
    if training.lr_scheduler_type in NEED_EVALUATIONS:
        without_evaluations = {"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {}}
    learner.config.consistency_weight = 0.0  # what regularises small real corpora; here it would double the time
    return SpeechTrainer(
        model=learner,
        args=dataclasses.replace(
            training,
            output_dir=str(Path(training.output_dir) / WARMUP_FOLDER),
            num_train_epochs=training.warmup_epochs,
            max_steps=-1,
            eval_strategy="no",
            eval_on_start=False,
            **without_evaluations,
            logging_strategy="epoch",  # each checkpoint knows its minutes
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=False,
            metric_for_best_model=None,
            early_stopping_patience=0,
            clean_epochs=0,
            average_checkpoints=1,
            step_lr_epochs=None,
            balance_by=None,
        ),
        data_collator=SpeechCollator(processor),
        train_dataset=spoken,
        processing_class=processor,
        callbacks=[TrainingClock()],
    )


def warmup_facts(data: DataArguments, spoken: Dataset, training: SpeechTrainingArguments) -> WarmupFacts | None:
    """What was learned from in the stage; nothing where the run went on from a checkpoint of another folder."""
    checkpoints = whole_checkpoints(Path(training.output_dir) / WARMUP_FOLDER)
    if not checkpoints:
        return None
    state = TrainerState.load_from_json(str(checkpoints[-1] / STATE_FILE))
    return WarmupFacts(
        text=" and ".join(
            "the training transcripts" if text == TRANSCRIPTS else Path(text).name for text in data.warmup_corpus
        ),
        utterances=len(spoken),
        duration_s=sum(spoken["duration_s"]),
        epochs=round(state.epoch, 2),
        minutes=minutes_trained(state),
    )
