"""Which columns of a raw split hold audio, transcripts and speakers, and what is in them as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from datasets import Audio, ClassLabel, Dataset, IterableDataset

from hf_speechft.data.raw_splits import AUDIO_COLUMNS

TEXT_COLUMNS = (
    "text", "transcription", "transcript", "sentence", "normalized_text", "raw_transcription", "raw_text",
)  # fmt: skip
SPEAKER_COLUMNS = ("speaker_id", "speaker", "spk_id", "spk", "client_id", "speaker_name", "user_id")


@dataclass(frozen=True)
class ColumnNames:
    """Names that a source gives its columns; none is given to what it hasn't got."""

    audio: str | None = None
    text: str | None = None
    speaker: str | None = None


def find_columns(
    raw: Dataset | IterableDataset, split: str, named: ColumnNames, *, needs_text: bool = True
) -> ColumnNames:
    """Find the columns of a raw split.

    Args:
        raw: The split; its features need to be known.
        split: Its name, for errors.
        named: Names that the user gave; the others are found from the usual names.
        needs_text: Whether there must be transcripts.

    Raises:
        ValueError: A column that was named, or one with audio or with the transcripts that it needs, is not there.
    """
    has_text = needs_text or named.text is not None or any(name in raw.column_names for name in TEXT_COLUMNS)
    has_speakers = named.speaker is not None or any(name in raw.column_names for name in SPEAKER_COLUMNS)
    return ColumnNames(
        audio=_find_audio_column(raw, split, named.audio),
        text=_find_column(raw, split, "text", named.text, TEXT_COLUMNS) if has_text else None,
        speaker=_find_column(raw, split, "speaker", named.speaker, SPEAKER_COLUMNS) if has_speakers else None,
    )


def _find_audio_column(raw: Dataset | IterableDataset, split: str, named: str | None) -> str:
    if named is None:
        decodable = [name for name, feature in raw.features.items() if isinstance(feature, Audio)]
        if decodable:
            return next((name for name in AUDIO_COLUMNS if name in decodable), decodable[0])
    return _find_column(raw, split, "audio", named, AUDIO_COLUMNS)


def _find_column(
    raw: Dataset | IterableDataset, split: str, role: str, named: str | None, usual: tuple[str, ...]
) -> str:
    if named is not None:
        if named in raw.column_names:
            return named
        problem = f"has no column {named!r}"
    else:
        found = next((name for name in usual if name in raw.column_names), None)
        if found is not None:
            return found
        problem = f"has no {role} column (looked for {', '.join(usual)})"
    columns = ", ".join(name for name in raw.column_names if name != "utterance_id")  # which readers add
    raise ValueError(f"split {split!r} {problem}; its columns are {columns}; name one with --{role}_column")


def to_text(value: Any, feature: Any = None) -> str:
    """Write a value as text: class labels by name, speaker numbers as integers, missing values as "".

    Args:
        value: From a column.
        feature: The column's.
    """
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(feature, ClassLabel):
        return feature.int2str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas makes floats of integers where one is missing
    return str(value)
