"""Drop what cannot be learned from, and say what was dropped: nothing disappears without being counted and named."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from datasets import Dataset

logger = logging.getLogger(__name__)

REASONS = (
    "unreadable audio", "empty transcript", "unknown characters", "too short", "too long", "cannot be aligned",
)  # fmt: skip
_NAMES_SHOWN = 3


@dataclass
class FilterReport:
    """What `filter_corpus` kept and dropped.

    Attributes:
        name: Name of the split.
        kept: Number of utterances kept.
        dropped: For each reason the ids of the utterances dropped for it; an utterance has one reason.
        kept_s: Seconds of speech kept.
        dropped_s: Seconds of speech dropped; unreadable audio counts as nothing.
    """

    name: str
    kept: int = 0
    dropped: dict[str, list[str]] = field(default_factory=dict)
    kept_s: float = 0.0
    dropped_s: float = 0.0

    @property
    def dropped_count(self) -> int:
        """Number of utterances dropped for any reason."""
        return sum(len(utterances) for utterances in self.dropped.values())

    def __str__(self) -> str:
        total, total_s = self.kept + self.dropped_count, self.kept_s + self.dropped_s
        minutes = f"{self.kept_s / 60:.1f} of {total_s / 60:.1f} min"
        line = f"{self.name}: kept {self.kept} of {total} utterances ({minutes})"
        reasons = [f"{len(ids)} {reason} ({_some(ids)})" for reason, ids in self.dropped.items()]
        return f"{line}; dropped {', '.join(reasons)}" if reasons else line


def filter_corpus(
    dataset: Dataset,
    *,
    min_duration_s: float | None = None,
    max_duration_s: float | None = None,
    count_steps: Callable[[float], int] | None = None,
    count_needed_steps: Callable[[str], int] | None = None,
    name: str = "corpus",
) -> tuple[Dataset, FilterReport]:
    """Keep the utterances of a split that can be learned from.

    Args:
        dataset: A split from `load_corpus`.
        min_duration_s: Shorter clips are dropped; None keeps them.
        max_duration_s: Longer clips are dropped; None keeps them.
        count_steps: Output steps of the model for a clip of so many seconds.
        count_needed_steps: Steps that CTC needs for a transcript: its tokens, and one for each repeated token.
        name: Name of the split in the report.

    Returns:
        The split without the dropped utterances, and the report, which is logged too.

    Raises:
        ValueError: The split is left empty.
    """
    report = FilterReport(name)
    kept = []
    columns = (dataset[column] for column in ("duration_s", "text", "utterance_id"))
    for index, (duration_s, text, utterance_id) in enumerate(zip(*columns, strict=True)):
        reason = reason_to_drop(
            duration_s,
            text,
            min_duration_s=min_duration_s,
            max_duration_s=max_duration_s,
            count_steps=count_steps,
            count_needed_steps=count_needed_steps,
        )
        if reason is None:
            kept.append(index)
            report.kept += 1
            report.kept_s += duration_s
        else:
            report.dropped.setdefault(reason, []).append(utterance_id)
            report.dropped_s += 0.0 if math.isnan(duration_s) else duration_s
    report.dropped = {reason: report.dropped[reason] for reason in REASONS if reason in report.dropped}
    if not kept:
        raise ValueError(f"nothing is left to use; {report}; give other data or relax the limits on duration")
    logger.log(logging.WARNING if report.dropped else logging.INFO, "%s", report)
    return (dataset.select(kept) if report.dropped else dataset), report


def count_ctc_steps(units: Sequence[str]) -> int:
    """Steps that CTC needs for a transcript: one for each unit, and one for the blank between equal neighbours.

    >>> count_ctc_steps("all in")
    7
    """
    return len(units) + sum(left == right for left, right in zip(units, units[1:], strict=False))


def reason_to_drop(
    duration_s: float,
    text: str,
    *,
    min_duration_s: float | None = None,
    max_duration_s: float | None = None,
    count_steps: Callable[[float], int] | None = None,
    count_needed_steps: Callable[[str], int] | None = None,
) -> str | None:
    """Say why an utterance cannot be learned from, with the limits of `filter_corpus`.

    Args:
        duration_s: Of its clip; NaN where that cannot be read.
        text: Its transcript.
        min_duration_s: As for `filter_corpus`.
        max_duration_s: Likewise.
        count_steps: Likewise.
        count_needed_steps: Likewise.

    Returns:
        One of `REASONS`; None where it can be learned from.
    """
    if math.isnan(duration_s):
        return "unreadable audio"
    if not text.strip():
        return "empty transcript"
    if min_duration_s is not None and duration_s < min_duration_s:
        return "too short"
    if max_duration_s is not None and duration_s > max_duration_s:
        return "too long"
    if count_steps is None or count_needed_steps is None or count_steps(duration_s) >= count_needed_steps(text):
        return None
    return "cannot be aligned"


def _some(utterances: list[str]) -> str:
    more = len(utterances) - _NAMES_SHOWN
    return ", ".join(utterances[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
