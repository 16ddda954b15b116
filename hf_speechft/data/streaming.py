"""Corpora that are read while they are learned from: nothing is downloaded, copied or scanned before the first update.

The training split is an `IterableDataset` with the columns of `corpora.COLUMNS`; each row is normalised and its
duration read from its header as it passes. Validation and test are read whole, and kept in memory. passes.py filters
the training split and goes over it without end.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import fsspec
from datasets import Audio, Dataset, Features, IterableDataset, Value
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from tqdm import tqdm

from hf_speechft.data.audio import AudioError, audio_duration_s
from hf_speechft.data.columns import ColumnNames, find_columns, to_text
from hf_speechft.data.corpora import choose_splits, is_demo
from hf_speechft.data.raw_splits import looks_remote
from hf_speechft.data.readers import find_local, hub_errors, open_builder, read_source
from hf_speechft.data.shards import find_shards, leave_encoded, stream_shards
from hf_speechft.data.splits import FRACTIONS
from hf_speechft.data.text import normalize_text

ROW_FEATURES = Features(
    {
        "audio": {"bytes": Value("binary"), "path": Value("string")},
        "text": Value("string"),
        "speaker_id": Value("string"),
        "duration_s": Value("float64"),
        "utterance_id": Value("string"),
    }
)
LOCAL_SHARDS = 64  # parts of a local list of files, for data loader workers to share


def stream_corpus(
    name_or_path: str | os.PathLike,
    *,
    config_name: str | None = None,
    train_split: str = "train",
    validation_split: str = "validation",
    test_split: str = "test",
    audio_column: str | None = None,
    text_column: str | None = None,
    speaker_column: str | None = None,
    normalizer: str = "basic",
    cache_dir: str | os.PathLike | None = None,
    token: str | None = None,
) -> dict[str, IterableDataset | Dataset]:
    """Open a corpus whose training split is read as it is learned from.

    Args:
        name_or_path: What `load_corpus` takes.
        config_name: Likewise, as all the others.
        train_split: Name of the training split in the source; several are joined by "+".
        validation_split: Likewise.
        test_split: Likewise.
        audio_column: Name of the column with audio; found from the usual names otherwise.
        text_column: Name of the column with transcripts; likewise.
        speaker_column: Name of the column with speakers; likewise.
        normalizer: Name of the text normaliser.
        cache_dir: Where the demo corpus is kept.
        token: Hub token for private and gated data sets.

    Returns:
        The stream "train", and "validation" and "test" in memory. What cannot be read has the duration NaN.

    Raises:
        ValueError: The source or a column does not exist, or a split, which cannot be cut from a stream.
    """
    normalize_text("", normalizer)  # a misspelled name must fail before a download
    named = ColumnNames(audio_column, text_column, speaker_column)
    wanted = {"train": train_split, "validation": validation_split, "test": test_split}
    raw = _open_source(name_or_path, config_name, audio_column, cache_dir, token)
    chosen = choose_splits(raw, wanted)
    missing = [split for split in FRACTIONS if split not in chosen]
    if missing:
        raise ValueError(
            f"{name_or_path} has the splits {', '.join(raw)} and none for {' and '.join(missing)}, which cannot be "
            f"cut from a stream; name one with {' and '.join(f'--{split}_split' for split in missing)}"
        )
    streams = {split: _standardize(chosen[split], split, named, normalizer) for split in FRACTIONS}
    return {"train": streams.pop("train")} | {split: _read_whole(stream, split) for split, stream in streams.items()}


def stream_training_split(
    name_or_path: str | os.PathLike, *, normalizer: str = "basic", cache_dir: str | os.PathLike | None = None
) -> IterableDataset:
    """Open the training split of a corpus as a stream: one that is added to another corpus.

    Args:
        name_or_path: As for `stream_corpus`; columns need to have the usual names.
        normalizer: Name of the text normaliser.
        cache_dir: As for `stream_corpus`.

    Raises:
        ValueError: As for `stream_corpus`.
    """
    raw = choose_splits(_open_source(name_or_path, None, None, cache_dir, None), {"train": "train"})
    return _standardize(raw["train"], "train", ColumnNames(), normalizer)


def _open_source(
    source: str | os.PathLike,
    config_name: str | None,
    audio_column: str | None,
    cache_dir: str | os.PathLike | None,
    token: str | None,
) -> dict[str, IterableDataset]:
    if is_demo(source):
        from hf_speechft.data.demo import load_demo  # not needed, nor installed, for other corpora

        return {split: _as_stream(data) for split, data in load_demo(cache_dir=cache_dir).items()}
    path = find_local(source)
    if path is None:
        with hub_errors(str(source)):
            builder = open_builder(str(source), config_name, cache_dir, token)
            if isinstance(builder, WebDataset):
                files = builder.config.data_files
                return stream_shards({str(split): [str(file) for file in files[split]] for split in files})
            return leave_encoded(builder.as_streaming_dataset())
    shards = find_shards(path)
    if shards:
        return stream_shards(shards)
    return {split: _as_stream(data) for split, data in read_source(path, audio_column=audio_column).items()}


def _as_stream(data: Dataset) -> IterableDataset:
    return data.to_iterable_dataset(num_shards=min(LOCAL_SHARDS, len(data)))


def _standardize(raw: IterableDataset, split: str, named: ColumnNames, normalizer: str) -> IterableDataset:
    """Give a stream the columns of `corpora.COLUMNS`, row by row."""
    if raw.features is None:
        raw = raw._resolve_features()  # reads the first rows
    row = _RowReader(find_columns(raw, split, named), raw.features, normalizer)
    return raw.map(row, remove_columns=raw.column_names, features=ROW_FEATURES)


class _RowReader:
    """Makes a row of a source one of `ROW_FEATURES`; data loader workers can pickle it."""

    def __init__(self, columns: ColumnNames, features: Features, normalizer: str) -> None:
        self.columns = columns
        self.features = features
        self.normalizer = normalizer

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        clip = _fetch(row[self.columns.audio])
        try:
            duration_s = audio_duration_s(clip)
        except AudioError:
            duration_s = math.nan
        speaker = self.columns.speaker
        return {
            "audio": clip,
            "text": normalize_text(self._text(row, self.columns.text), self.normalizer),
            "speaker_id": "" if speaker is None else self._text(row, speaker),
            "duration_s": duration_s,
            "utterance_id": self._name(row, clip),
        }

    def _text(self, row: dict[str, Any], column: str) -> str:
        return to_text(row[column], self.features[column])

    def _name(self, row: dict[str, Any], clip: dict[str, Any]) -> str:
        """Name an utterance as `load_corpus` does, but not apart from others of its name."""
        own = self._text(row, "utterance_id") if "utterance_id" in row else ""
        return own or Path(clip["path"] or "").name or (self._text(row, "id") if "id" in row else "")


def _fetch(value: dict[str, Any] | str | None) -> dict[str, Any]:
    """Give `{"bytes", "path"}` of a clip; what lies at an address is read now, as a decoder takes files and bytes."""
    clip = {"bytes": None, "path": value} if isinstance(value, str) else value or {}
    content, path = clip.get("bytes"), clip.get("path")
    if content is None and path and looks_remote(path):
        with fsspec.open(path, "rb") as file:
            content = file.read()
    return {"bytes": content, "path": path}


def _read_whole(stream: IterableDataset, split: str) -> Dataset:
    """Read a split into memory, with a progress bar; utterances of equal names are told apart."""
    rows = list(tqdm(stream, desc=f"Reading the {split} split", unit="utterance"))
    if not rows:
        raise ValueError(f"split {split!r} holds no utterance; name another with --{split}_split")
    columns = {name: [row[name] for row in rows] for name in ROW_FEATURES}
    seen: set[str] = set()
    for index, name in enumerate(columns["utterance_id"]):
        if not name or name in seen:
            columns["utterance_id"][index] = f"{name or split}#{index}"
        seen.add(name)
    return Dataset.from_dict(columns, features=ROW_FEATURES).cast_column("audio", Audio(decode=False))
