"""What an audit says: findings with a severity, the utterances that they are about, and what to do about them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from datasets import DatasetDict

Severity = Literal["problem", "look", "fine"]
SEVERITIES: tuple[Severity, ...] = ("problem", "look", "fine")
MANY = 0.01  # a larger share of the utterances is a problem, a smaller one is worth a look


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a corpus, without its sound.

    Attributes:
        split: Name of its split.
        row: Its place there.
        utterance_id: Its name, unique within the split.
        text: Normalised transcript.
        speaker_id: "" if unknown.
        duration_s: NaN where the file cannot be read.
    """

    split: str
    row: int
    utterance_id: str
    text: str
    speaker_id: str
    duration_s: float

    @property
    def is_readable(self) -> bool:
        """Whether the file's header could be read."""
        return not math.isnan(self.duration_s)


@dataclass(frozen=True, slots=True)
class Flag:
    """An utterance that a finding is about, and what was found there."""

    utterance: Utterance
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: What was looked at, such as "clipping".
        severity: "problem", "look" or "fine".
        message: What was found.
        remedy: What to do; "" where nothing is to be done.
        flags: The utterances concerned, within each split the most extreme first.
    """

    check: str
    severity: Severity
    message: str
    remedy: str = ""
    flags: Sequence[Flag] = ()

    def examples(self, per_split: int) -> list[Flag]:
        """Return the first few flags of each split."""
        shown: Counter[str] = Counter()
        chosen = []
        for flag in self.flags:
            shown[flag.utterance.split] += 1
            if shown[flag.utterance.split] <= per_split:
                chosen.append(flag)
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, with every utterance concerned."""
        return {
            "check": self.check,
            "severity": self.severity,
            "message": self.message,
            "remedy": self.remedy,
            "count": len(self.flags),
            "utterances": [_flag_to_dict(flag) for flag in self.flags],
        }


def read_utterances(corpus: DatasetDict) -> list[Utterance]:
    """List the rows of all splits of a corpus from `load_corpus`; no sound is touched."""
    utterances = []
    for name, split in corpus.items():
        columns = [split[column][:] for column in ("utterance_id", "text", "speaker_id", "duration_s")]
        utterances += [Utterance(name, row, *values) for row, values in enumerate(zip(*columns, strict=True))]
    return utterances


def graded(count: int, total: int) -> Severity:
    """Grade what is harmless in a few utterances: "fine" for none, "problem" for more than `MANY` of them.

    >>> graded(0, 100), graded(1, 100), graded(2, 100)
    ('fine', 'look', 'problem')
    """
    if not count:
        return "fine"
    return "problem" if count > MANY * total else "look"


def counted(count: int, noun: str) -> str:
    """Write a count with its noun.

    >>> counted(1, "clip"), counted(1200, "clip")
    ('1 clip', '1,200 clips')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _flag_to_dict(flag: Flag) -> dict[str, Any]:
    utterance = flag.utterance
    return {
        "split": utterance.split,
        "utterance_id": utterance.utterance_id,
        "text": utterance.text,
        "duration_s": round(utterance.duration_s, 3) if utterance.is_readable else None,
        "note": flag.note,
    }
