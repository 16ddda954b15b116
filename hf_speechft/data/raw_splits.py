"""Raw splits, which every reader gives: a `Dataset` with whatever columns its source has, audio not decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
from datasets import Audio, Dataset

RawSplits = dict[str, Dataset]

# The usual names, most specific first. A corpus with others names them by argument.
AUDIO_COLUMNS = (
    "audio", "audio_filepath", "audio_path", "audio_file", "file_name", "filename", "wav_filename",
    "wav", "path", "file", "speech",
)  # fmt: skip
SPLIT_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}  # the names that `datasets` knows for folders and files


def split_role(name: str) -> str | None:
    """Tell which of train, validation and test a split of this name is for; None if the name doesn't say."""
    return next((role for role, aliases in SPLIT_ALIASES.items() if name.lower() in aliases), None)


def name_audio_files(values: dict[str, list[Any]], audio_column: str, names: Sequence[str]) -> Dataset:
    """Build a split of audio files.

    Args:
        values: The columns, all of the same length. Those besides the audio become text; None becomes "".
        audio_column: The column with paths, which becomes `{"bytes": None, "path"}`.
        names: Of the utterances, for the column `utterance_id`.
    """
    columns = {name: column for name, column in values.items() if name not in (audio_column, "utterance_id")}
    columns = {name: _as_text(column) for name, column in columns.items()}
    split = Dataset.from_dict({audio_column: values[audio_column], **columns, "utterance_id": list(names)})
    return split.cast_column(audio_column, Audio(decode=False))


def _as_text(column: list[Any]) -> list[str]:
    return [field_text(value) for value in column]


def field_text(value: Any) -> str:
    """A value as text; "" where it is missing, as None or, in JSON that pandas wrote, NaN."""
    return "" if value is None or value != value else str(value)


def without_decoding(data: Dataset) -> Dataset:
    """Leave the audio of a split encoded."""
    for column, feature in data.features.items():
        if isinstance(feature, Audio):
            data = data.cast_column(column, Audio(decode=False))
    return data


class UndecodedAudio(Audio):
    """Audio that a builder can write without torchcodec: a path or bytes are stored as they are."""

    def encode_example(self, value: str | bytes | dict[str, Any]) -> dict[str, Any]:
        """Store the path of a file, or the bytes of what lies in an archive."""
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": bytes(value), "path": None}
        if isinstance(value, dict):
            return {"bytes": value.get("bytes"), "path": value.get("path")}
        if not looks_remote(value):
            return {"bytes": None, "path": str(value)}
        with fsspec.open(value, "rb") as file:  # zip://a.wav::archive.zip
            return {"bytes": file.read(), "path": str(value).partition("::")[0]}


def looks_remote(path: str | Path) -> bool:
    """Tell an address such as hf://datasets/… from a path."""
    return "://" in str(path)
