"""What an audit finds without decoding sound: durations, transcripts, speaking rates, speakers, alignability."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import DatasetDict

from hf_speechft.data.audio import AudioError, audio_duration_s
from hf_speechft.data.filters import count_ctc_steps
from hf_speechft.data.findings import Finding, Flag, Utterance, counted, graded

MIN_DURATION_S = 0.1  # run_finetune's --min_duration_s and --max_duration_s
MAX_DURATION_S = 20.0
MAX_ROBUST_Z = 5.0  # Iglewicz and Hoaglin (1993) take 3.5 for normal values; speaking rates have longer tails
_MIN_SPREAD = 0.05  # rates that differ by less than 5 % are equal, however little the rest varies
_NORMAL_MAD = 0.6745  # median absolute deviation of a normal distribution, in standard deviations
_CHARACTERS_SHOWN = 12
_NAMES_SHOWN = 5
_SUBSAMPLINGS = (2, 4, 8)


@dataclass(frozen=True)
class Units:
    """How a model cuts sound into steps and text into units.

    Attributes:
        subsampling: Frames of 10 ms in a step: 2, 4 or 8.
        sampling_rate_hz: Rate that its features are computed at.
        count_steps: Steps of so many seconds at a subsampling.
        count_needed_steps: Steps that CTC needs for a transcript.
        characters: What the vocabulary can write; None if it will be made of the training transcripts.
        are_characters: Whether the units are single characters.
    """

    subsampling: int
    sampling_rate_hz: int
    count_steps: Callable[[float, int], int]
    count_needed_steps: Callable[[str], int]
    characters: frozenset[str] | None = None
    are_characters: bool = True


def count_character_steps(text: str) -> int:
    """Steps that CTC needs for a transcript in characters; a run of blanks is one.

    >>> count_character_steps("all in")
    7
    """
    return count_ctc_steps(" ".join(text.split()))


def check_readable(corpus: DatasetDict, utterances: Sequence[Utterance], explained: int = 20) -> Finding:
    """Report files whose header cannot be read; the first ones with the reason."""
    unreadable = [utterance for utterance in utterances if not utterance.is_readable]
    if not unreadable:
        return Finding("files", "fine", f"all {counted(len(utterances), 'file')} can be read")
    flags = [
        Flag(utterance, _reason(corpus, utterance) if number < explained else "cannot be read")
        for number, utterance in enumerate(unreadable)
    ]
    message = f"{len(flags):,} of {counted(len(utterances), 'file')} cannot be read"
    return Finding("files", "problem", message, "copy or record them again; training leaves them out", flags)


def _reason(corpus: DatasetDict, utterance: Utterance) -> str:
    try:
        audio_duration_s(corpus[utterance.split][utterance.row]["audio"] or {})
    except AudioError as error:
        return str(error)
    return "could not be read before, and can be now"


def check_transcripts(utterances: Sequence[Utterance]) -> list[Finding]:
    """Report empty transcripts and digits."""
    empty = [Flag(utterance, "no transcript") for utterance in utterances if not utterance.text.strip()]
    digits = [Flag(utterance) for utterance in utterances if any(letter.isdecimal() for letter in utterance.text)]
    findings = [Finding("transcripts", "fine", "none is empty"), Finding("digits", "fine", "no transcript has any")]
    if empty:
        message = f"{counted(len(empty), 'transcript')} empty after normalisation"
        remedy = "write them; training leaves the utterances out"
        findings[0] = Finding("transcripts", graded(len(empty), len(utterances)), message, remedy, empty)
    if digits:
        message = f"{counted(len(digits), 'transcript')} with digits, which are read in many ways"
        findings[1] = Finding("digits", "look", message, "write numbers as the words that were spoken", digits)
    return findings


def check_durations(utterances: Sequence[Utterance]) -> Finding:
    """Report clips that training would drop for their length."""
    short = [utterance for utterance in utterances if utterance.duration_s < MIN_DURATION_S]
    long = [utterance for utterance in utterances if utterance.duration_s > MAX_DURATION_S]
    if not short and not long:
        return Finding("durations", "fine", f"all between {MIN_DURATION_S:g} and {MAX_DURATION_S:g} s")
    flags = [Flag(utterance, f"{utterance.duration_s:.2f} s") for utterance in _by_length(long) + _by_length(short)]
    message = f"{counted(len(short), 'clip')} below {MIN_DURATION_S:g} s, {len(long):,} above {MAX_DURATION_S:g} s"
    remedy = "cut long ones at pauses" if long else "drop the short ones"
    remedy += "; training leaves them out, see --min_duration_s and --max_duration_s"
    return Finding("durations", graded(len(flags), len(utterances)), message, remedy, flags)


def _by_length(utterances: Sequence[Utterance]) -> list[Utterance]:
    return sorted(utterances, key=lambda utterance: -utterance.duration_s)


def characters_per_second(utterance: Utterance) -> float | None:
    """Speaking rate; None where the transcript is empty or the file cannot be read."""
    letters = len(utterance.text.strip())
    return letters / utterance.duration_s if letters and utterance.duration_s > 0 else None


def check_rates(utterances: Sequence[Utterance]) -> Finding:
    """Report speaking rates far from the median of the corpus, which wrong transcripts and cut sound have.

    The robust z-score `0.6745 (x - median) / MAD` is taken of logarithms, as twice and half the usual rate are equally
    odd.

    Source: Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers, section 3.
    """
    check = "characters per second"
    rated = [(rate, utterance) for utterance in utterances if (rate := characters_per_second(utterance)) is not None]
    if not rated:
        return Finding(check, "fine", "nothing to measure")
    logarithms = np.log([rate for rate, _ in rated])
    median = float(np.median(logarithms))
    spread = max(float(np.median(np.abs(logarithms - median))), _MIN_SPREAD)
    scores = _NORMAL_MAD * (logarithms - median) / spread
    usual = math.exp(median)
    order = np.argsort(-np.abs(scores), kind="stable")
    flags = [
        Flag(rated[index][1], f"{rated[index][0]:.1f} characters/s, z {scores[index]:+.1f}")
        for index in order.tolist()
        if abs(scores[index]) > MAX_ROBUST_Z
    ]
    if not flags:
        return Finding(check, "fine", f"median {usual:.1f}, no outliers")
    message = f"{counted(len(flags), 'utterance')} far from the median of {usual:.1f}"
    remedy = "listen: the transcript may belong to another clip, or the sound be cut"
    return Finding(check, graded(len(flags), len(rated)), message, remedy, flags)


def check_alignment(utterances: Sequence[Utterance], units: Units) -> Finding:
    """Report utterances with fewer steps than CTC needs for their transcript, and whether less subsampling helps."""
    check = f"alignment at {units.subsampling}x"
    usable = [utterance for utterance in utterances if utterance.is_readable and utterance.text.strip()]
    needed = [units.count_needed_steps(utterance.text) for utterance in usable]

    def lacking(subsampling: int) -> list[Flag]:
        steps = [units.count_steps(utterance.duration_s, subsampling) for utterance in usable]
        flags = [
            (need / max(have, 1), Flag(utterance, f"{have} steps for the {need} that its transcript needs"))
            for utterance, have, need in zip(usable, steps, needed, strict=True)
            if have < need
        ]
        return [flag for _, flag in sorted(flags, key=lambda pair: -pair[0])]

    flags = lacking(units.subsampling)
    if not flags:
        return Finding(check, "fine", "every transcript fits its sound")
    smaller = {times: len(lacking(times)) for times in _SUBSAMPLINGS if times < units.subsampling}
    message = f"{counted(len(flags), 'utterance')} cannot be aligned at {units.subsampling}x"
    message += "".join(f", {left:,} at {times}x" for times, left in sorted(smaller.items(), reverse=True))
    return Finding(
        check, graded(len(flags), len(usable)), message, _alignment_remedy(len(flags), smaller, units), flags
    )


def _alignment_remedy(lacking: int, smaller: dict[int, int], units: Units) -> str:
    helpful = [times for times, left in smaller.items() if left < lacking]
    options = [f"--subsampling {max(helpful, key=lambda times: (-smaller[times], times))}"] if helpful else []
    options += ["the native vocabulary"] if units.are_characters else []
    checked = "check that the transcripts belong to these clips"
    return f"{checked}; if they do, use {' or '.join(options)}" if options else checked


def check_characters(utterances: Sequence[Utterance], units: Units) -> Finding:
    """Report characters that the vocabulary cannot write: the model's, or one of the training transcripts."""
    known, home = units.characters, "the model's vocabulary"
    if known is None:
        known = frozenset().union(*(utterance.text for utterance in utterances if utterance.split == "train"))
        home = "the training transcripts"
    counts: Counter[str] = Counter()
    flags = []
    for utterance in utterances:
        unknown = {letter for letter in utterance.text if letter not in known and not letter.isspace()}
        if unknown:
            counts.update(unknown)
            flags.append(Flag(utterance, f"unknown: {' '.join(map(_named, sorted(unknown)))}"))
    if not flags:
        return Finding("characters", "fine", f"all are in {home}")
    shown = ", ".join(f"{_named(letter)} ({count:,})" for letter, count in counts.most_common(_CHARACTERS_SHOWN))
    more = len(counts) - _CHARACTERS_SHOWN
    message = f"{counted(len(counts), 'character')} not in {home}: {shown}" + (f", {more} more" if more > 0 else "")
    remedy = "correct them, or choose a --text-normalizer that takes them off; they cannot be recognised"
    return Finding("characters", graded(len(flags), len(utterances)), message, remedy, flags)


def _named(character: str) -> str:
    """Show a character; marks and invisible ones by code point."""
    is_visible = character.isprintable() and not unicodedata.category(character).startswith("M")
    return character if is_visible else f"U+{ord(character):04X}"


def check_speaker_names(utterances: Sequence[Utterance]) -> Finding:
    """Report utterances whose speaker is not known."""
    unnamed = [Flag(utterance, "no speaker") for utterance in utterances if not utterance.speaker_id]
    if not unnamed:
        return Finding("speaker names", "fine", "all are known")
    message = (
        f"{len(unnamed):,} of {counted(len(utterances), 'utterance')} without a speaker, who may be in two splits"
    )
    return Finding("speaker names", "look", message, "name the column with --speaker-column", unnamed)


def check_speakers(utterances: Sequence[Utterance]) -> Finding:
    """Report speakers who are in several splits."""
    splits: dict[str, set[str]] = defaultdict(set)
    for utterance in utterances:
        if utterance.speaker_id:
            splits[utterance.speaker_id].add(utterance.split)
    shared = {name: sorted(parts) for name, parts in splits.items() if len(parts) > 1}
    if not shared:
        return Finding("speakers", "fine", "nobody is known to be in two splits")
    if len(splits) == 1:
        return Finding("speakers", "look", "one speaker in all splits", "expect other voices to do worse")
    flags = [
        Flag(utterance, f"speaker {utterance.speaker_id} is in {' and '.join(shared[utterance.speaker_id])}")
        for utterance in utterances
        if utterance.speaker_id in shared
    ]
    names = ", ".join(list(shared)[:_NAMES_SHOWN]) + (" …" if len(shared) > _NAMES_SHOWN else "")
    message = f"{counted(len(shared), 'speaker')} in several splits ({names}), which flatters the results"
    return Finding("speakers", "problem", message, "keep all utterances of a speaker in one split", flags)
