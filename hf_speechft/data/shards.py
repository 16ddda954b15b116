"""Shards: parquet files and webdataset tar files, in a folder or by a pattern, that hold sound and transcripts.

In a webdataset tar the files of an utterance follow each other and share a name up to the first dot: `0001.flac` with
`0001.txt`, or `0001.json` with fields. They are read here and not by `datasets`' builder, which needs torchcodec to
pass bytes on.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
from datasets import Audio, Dataset, Features, IterableDataset, Value, load_dataset_builder

from hf_speechft.data.raw_splits import RawSplits, UndecodedAudio, field_text, split_role, without_decoding

SHARD_SUFFIXES = (".parquet", ".tar")
SOUND_SUFFIXES = {"wav", "flac", "mp3", "ogg", "opus", "m4a", "mp4", "webm", "aac", "aiff", "au"}
TEXT_SUFFIXES = {"txt", "text", "transcript", "lab"}

LOOKED_AT = 20  # utterances, for the names of columns, which any of them may lack

ShardFiles = dict[str, list[str]]


def find_shards(source: str | os.PathLike) -> ShardFiles:
    """Find the shards that a path names, by split.

    Args:
        source: A `.tar` file, a pattern such as `shards/train-*.parquet`, or a folder with shards in it, in its folder
            `data`, or in a folder for each split.

    Returns:
        Sorted files by split. A split is named by a word of a file's name (`train-00000.tar`, `speech-dev-0.tar`) or
        by its folder; all others are of the split "train". Nothing where there are no shards.

    Raises:
        ValueError: There are shards of both kinds, or a pattern that fits nothing.
    """
    path = Path(source).expanduser()
    if is_pattern(source):
        files = sorted(glob.glob(str(path), recursive=True))
        if not files:
            raise ValueError(f"no file fits the pattern {source} (looked from {Path.cwd()}); check it")
    elif path.is_file():
        files = [str(path)] if path.suffix.lower() == ".tar" else []
    else:
        folders = [path, path / "data", *sorted(child for child in path.glob("*") if split_role(child.name))]
        files = [str(file) for folder in folders for file in sorted(folder.glob("*")) if file.is_file()]
    files = [file for file in files if file.lower().endswith(SHARD_SUFFIXES)]
    kinds = {Path(file).suffix.lower() for file in files}
    if len(kinds) > 1:
        raise ValueError(f"{source} holds parquet and tar files; name those of one kind, such as {path / '*.tar'}")
    splits: ShardFiles = {}
    for file in files:
        splits.setdefault(_split_of(Path(file)), []).append(file)
    return splits


def is_pattern(source: str | os.PathLike) -> bool:
    """Tell whether a path is a pattern for the names of several files."""
    return glob.has_magic(str(source)) and not Path(source).expanduser().exists()


def _split_of(file: Path) -> str:
    words = [*re.split(r"[^a-z]+", file.name.lower()), file.parent.name]
    return next((word for word in words if split_role(word)), "train")


def read_shards(files: ShardFiles, cache_dir: str | os.PathLike | None = None) -> RawSplits:
    """Read shards into raw splits; `datasets` keeps a copy of the sound in its cache.

    Raises:
        ValueError: A tar file is not a webdataset.
    """
    if are_tars(files):
        return {split: _read_tars(shards, cache_dir) for split, shards in files.items()}
    cache = None if cache_dir is None else str(cache_dir)
    builder = load_dataset_builder("parquet", data_files=files, cache_dir=cache)
    builder.download_and_prepare()
    return {split: without_decoding(data) for split, data in builder.as_dataset().items()}


def stream_shards(files: ShardFiles) -> dict[str, IterableDataset]:
    """Open shards as streams of the same rows as those of `read_shards`; nothing is copied.

    Args:
        files: Paths or addresses that fsspec opens, by split.

    Raises:
        ValueError: A tar file is not a webdataset.
    """
    if are_tars(files):
        return {
            split: IterableDataset.from_generator(
                read_tars,
                gen_kwargs={"files": list(shards), "columns": list_columns(shards[0])},  # shared out by the list
                features=_tar_features(list_columns(shards[0])),
            )
            for split, shards in files.items()
        }
    return leave_encoded(load_dataset_builder("parquet", data_files=files).as_streaming_dataset())


def leave_encoded(streams: dict[str, IterableDataset]) -> dict[str, IterableDataset]:
    """Leave the audio of streams encoded."""
    for split, stream in streams.items():
        for column, feature in (stream.features or {}).items():
            if isinstance(feature, Audio):
                stream = stream.cast_column(column, UndecodedAudio(decode=False))
        streams[split] = stream
    return dict(streams)


def are_tars(files: ShardFiles) -> bool:
    """Tell whether shards are tar files, and not parquet files."""
    return next(iter(files.values()))[0].lower().endswith(".tar")


def _read_tars(files: list[str], cache_dir: str | os.PathLike | None) -> Dataset:
    columns = list_columns(files[0])
    states = [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    data = Dataset.from_generator(
        read_tars,
        features=_tar_features(columns),
        gen_kwargs={"files": files, "columns": columns},
        cache_dir=None if cache_dir is None else str(cache_dir),
        fingerprint=hashlib.sha256(repr(states).encode()).hexdigest()[:16],
    )
    return data.cast_column("audio", Audio(decode=False))


def _tar_features(columns: Sequence[str]) -> Features:
    sound = {"bytes": Value("binary"), "path": Value("string")}
    return Features({"audio": sound} | {name: Value("string") for name in columns})


def list_columns(file: str) -> tuple[str, ...]:
    """Name the columns of a webdataset besides `audio`, which are those of its first utterances.

    Raises:
        ValueError: It is empty, or its first utterance has no sound.
    """
    first = list(itertools.islice(iter_utterances(file), LOOKED_AT))
    if not first:
        raise ValueError(f"{file} holds no file; a webdataset has one of sound and one of text for each utterance")
    row, names = first[0]
    if row["audio"] is None:
        raise ValueError(
            f"{file} is no webdataset of speech: its first files, {', '.join(names)}, hold no sound; an utterance is "
            "0001.flac and 0001.txt or 0001.json, one after the other"
        )
    return tuple(dict.fromkeys(name for row, _ in first for name in row if name != "audio"))


def read_tars(files: Sequence[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read the utterances of webdataset tar files, one file after the other.

    Args:
        files: Paths or addresses.
        columns: The columns besides `audio`, "" where an utterance has no such field.

    Yields:
        `audio` with the encoded bytes, and the columns as text.
    """
    for file in files:
        for row, _ in iter_utterances(file):
            yield {"audio": row["audio"] or {"bytes": None, "path": None}} | {
                name: row.get(name, "") for name in columns
            }


def iter_utterances(file: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Yield the utterances of a tar file as rows, each with the names of its files.

    Raises:
        ValueError: It is cut off, or is not a tar file.
    """
    key, row, names = None, {}, []
    try:
        with fsspec.open(file, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if not member.isfile() or not stem or not suffix:
                    continue  # folders, and hidden files such as macOS's
                if (folder, stem) != key:
                    if key is not None:
                        yield row, names
                    key, names = (folder, stem), []
                    row = {"audio": None, "utterance_id": f"{folder}/{stem}" if folder else stem}
                names.append(member.name)
                _add_field(row, member.name, suffix.lower(), archive.extractfile(member).read())
    except tarfile.TarError as error:
        raise ValueError(f"{file} cannot be read as a tar file ({error}); copy or make it again") from error
    if key is not None:
        yield row, names


def _add_field(row: dict[str, Any], name: str, suffix: str, content: bytes) -> None:
    kind = suffix.rpartition(".")[2]
    if kind in SOUND_SUFFIXES:
        row["audio"] = {"bytes": content, "path": name}
    elif kind in TEXT_SUFFIXES:
        row["text"] = content.decode("utf-8").strip()
    elif kind == "json":
        fields = json.loads(content)
        for field, value in fields.items() if isinstance(fields, dict) else ():
            if field not in ("audio", "utterance_id") and not isinstance(value, (dict, list)):
                row.setdefault(field, field_text(value))
