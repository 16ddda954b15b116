"""Which utterances a run learns from and is tested on: those that the model takes and CTC can align."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from datasets import Dataset

from hf_speechft import SpeechBertForCTC, SpeechBertProcessor
from hf_speechft.data.augment import expand_speeds
from hf_speechft.data.filters import FilterReport, count_ctc_steps, filter_corpus
from hf_speechft.model.frontend_speechbert import output_lengths
from hf_speechft.training.arguments import DataArguments
from hf_speechft.training.corpus import Corpus

EVALUATED = ("validation", "test")


def select_utterances(
    corpus: Corpus, processor: SpeechBertProcessor, model: SpeechBertForCTC, data: DataArguments
) -> tuple[dict[str, Dataset], dict[str, FilterReport]]:
    """Drop what cannot be used, put each split into its order, and repeat training clips at other speeds.

    From the training split goes what is unreadable, empty, too short, too long or cannot be aligned, at any of the
    speeds. The other splits lose only what is empty, as withheld transcripts are, and what cannot be decoded at all,
    being shorter than a frame or longer than the positions reach: without the hard ones the result would flatter.
    A stream is left to `make_stream`.

    Raises:
        ValueError: A split has nothing left.
    """
    splits, reports = {"train": corpus["train"]}, {}
    if not data.streaming:
        speeds = data.speed_factors
        train, reports["train"] = keep_learnable(corpus["train"], processor, model, data, speeds=speeds, name="train")
        splits["train"] = train if speeds == [1.0] else expand_speeds(train, speeds)
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
    return filter_corpus(dataset, **find_limits(processor, model, data, speeds), name=name)


def find_limits(
    processor: SpeechBertProcessor, model: SpeechBertForCTC, data: DataArguments, speeds: Sequence[float]
) -> dict[str, float | Callable]:
    """Limits of `filter_corpus` for training clips that are played at these speeds."""
    shortest_s, longest_s = duration_limits(processor, model)
    slowest, fastest = min(speeds), max(speeds)
    return {
        "min_duration_s": max(data.min_duration_s, shortest_s) * fastest,
        "max_duration_s": min(data.max_duration_s, longest_s) * slowest,
        "count_steps": partial(count_steps, processor, model.config.subsampling, fastest),
        "count_needed_steps": partial(count_needed_steps, processor),
    }


def count_unspelled(train: Dataset, processor: SpeechBertProcessor, model: SpeechBertForCTC) -> int:
    """Clips with fewer steps than CTC needs for their characters.

    From these a middle layer that learns characters (`SpeechTrainer.spells_middle`) learns nothing.

    Args:
        train: The training split.
        processor: Names the units.
        model: Names the subsampling.
    """
    texts = train["text"][:]  # each as often as there are speeds
    needed = {text: count_ctc_steps("".join(processor.tokenizer.tokenize(text))) for text in set(texts)}
    return sum(
        count_steps(processor, model.config.subsampling, 1.0, duration_s) < needed[text]
        for duration_s, text in zip(train["duration_s"], texts, strict=True)
    )


def count_steps(processor: SpeechBertProcessor, subsampling: int, speed: float, duration_s: float) -> int:
    """Steps that the model makes of a clip that is played at a speed."""
    extractor = processor.feature_extractor
    samples = math.floor(duration_s / speed * extractor.sampling_rate)
    return output_lengths(extractor.frame_count(samples), subsampling)


def duration_limits(processor: SpeechBertProcessor, model: SpeechBertForCTC) -> tuple[float, float]:
    """Seconds of the shortest and of the longest clip that the model takes."""
    extractor, config = processor.feature_extractor, model.config
    shortest_s = (extractor.frame_length + 1) / extractor.sampling_rate
    max_steps = model.speechbert.max_steps
    if not max_steps:
        return shortest_s, math.inf
    samples = max_steps * config.inputs_to_logits_ratio
    if output_lengths(extractor.frame_count(samples), config.subsampling) > max_steps:
        samples -= extractor.hop_length  # log-mel features have one frame more
    return shortest_s, samples / config.sampling_rate


def count_needed_steps(processor: SpeechBertProcessor, text: str) -> int:
    """Steps that CTC needs for a transcript in the processor's units."""
    return count_ctc_steps(processor.tokenizer.tokenize(text))
