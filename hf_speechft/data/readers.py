"""Where corpora come from: audio folders, manifests, LibriSpeech trees and the Hub, each read into named raw splits.

A raw split has whatever columns its source has; `corpora.py` finds the ones it needs. Local sources are read here and
not by `datasets`' builders, for three reasons: the builders import torchcodec to write a path; they read the words
"null", "none" and "NA" as missing values (German "null" is the digit zero); and they turn speaker "007" into 7.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
from datasets import Audio, Dataset, Value, concatenate_datasets, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetsError
from datasets.table import InMemoryTable
from pyarrow import parquet

logger = logging.getLogger(__name__)

RawSplits = dict[str, Dataset]
Rows = list[dict[str, Any]]

# The usual names, most specific first. A corpus with others names them by argument.
AUDIO_COLUMNS = (
    "audio", "audio_filepath", "audio_path", "audio_file", "file_name", "filename", "wav_filename",
    "wav", "path", "file", "speech",
)  # fmt: skip
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
SPLIT_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}  # the names that `datasets` knows for folders and files


class NoCorpusError(ValueError):
    """A folder in which nothing names the audio files and says what they hold."""


def read_source(
    source: str | os.PathLike | Mapping[str, str | os.PathLike],
    *,
    config_name: str | None = None,
    audio_column: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | None = None,
) -> RawSplits:
    """Read a corpus from wherever it is into raw splits.

    Args:
        source: Hub id, folder, manifest file, or a mapping from split name to manifest or folder.
        config_name: Configuration of a Hub data set.
        audio_column: Column that names the audio file; found from the usual names otherwise.
        cache_dir: Where `datasets` keeps what it downloads.
        token: Hub token for private and gated data sets.

    Raises:
        ValueError: The source does not exist, cannot be reached, or cannot be read.
    """
    if isinstance(source, Mapping):
        return {name: _read_one_split(Path(path), audio_column) for name, path in source.items()}
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, audio_column, cache_dir)
    if path.is_file():
        return {path.stem: read_manifest(path, audio_column)}
    if isinstance(source, os.PathLike) or _looks_local(source):
        raise ValueError(f"{source}: no such file or folder (looked in {Path.cwd()}); check the path")
    try:
        return _build_with_datasets(source, config_name, cache_dir, token)
    except RuntimeError as error:
        raise ValueError(
            f"data set {source!r} cannot be loaded from the Hub ({error}); use a copy of it in parquet, or download "
            "it and give the path of an audio folder or manifest"
        ) from error
    except (OSError, DatasetsError) as error:  # not found, private, gated, unreachable
        raise ValueError(
            f"data set {source!r} was not found locally or on the Hub ({error}); check the spelling, log in with "
            "`hf auth login` if it is private or gated, or give the path of an audio folder or manifest"
        ) from error


def read_manifest(path: Path, audio_column: str | None = None) -> Dataset:
    """Read a CSV, TSV, JSON, JSON-lines or parquet file that names one audio file in each row.

    Relative paths are resolved against the manifest's folder. Fields are kept as the text that they are in the file.

    Raises:
        ValueError: A line cannot be parsed, there are no rows, or no column names the audio.
    """
    rows = _parse_manifest(path)
    if isinstance(rows, Dataset):
        return rows
    if not rows:
        raise ValueError(f"manifest {path} has no rows; it needs one row for each utterance")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    _refuse_segments(path, rows)
    audio_column = audio_column or next((name for name in AUDIO_COLUMNS if name in columns), None)
    if audio_column not in columns:
        wanted = f"column {audio_column!r}" if audio_column else "a column with the audio files' names"
        raise ValueError(
            f"manifest {path} has no {wanted.removeprefix('a ')}; its columns are {', '.join(columns)}; "
            "name the right one with --audio_column"
        )
    values = {name: [row.get(name) for row in rows] for name in columns}
    files = [str(name or "") for name in values[audio_column]]
    values[audio_column] = [str(path.parent / Path(name).expanduser()) for name in files]
    return _with_audio(values, audio_column, [_relative_name(name) for name in files])


def _with_audio(values: dict[str, list[Any]], audio_column: str, names: list[str]) -> Dataset:
    """Build a split whose audio column holds {"bytes": None, "path"} and whose `utterance_id` names the rows."""
    columns = {name: column for name, column in values.items() if name not in (audio_column, "utterance_id")}
    columns = {name: _as_text(column) for name, column in columns.items()}
    split = Dataset.from_dict({audio_column: values[audio_column], **columns, "utterance_id": names})
    return split.cast_column(audio_column, Audio(decode=False))


def _as_text(column: list[Any]) -> list[str]:
    return ["" if value is None else value if isinstance(value, str) else str(value) for value in column]


def _relative_name(name: str) -> str:
    """Keep sub-folders of a relative path, which tell apart files of equal names."""
    path = Path(name)
    if not name:
        return ""
    return path.name if path.is_absolute() or ".." in path.parts or name.startswith("~") else path.as_posix()


def _refuse_segments(path: Path, rows: Rows) -> None:
    """NeMo's manifests can cut utterances out of longer files; reading the whole file would be silently wrong."""
    for row in rows:
        offset = row.get("offset")
        if offset not in (None, "") and float(offset) > 0:
            raise ValueError(
                f"manifest {path} cuts segments from longer recordings (offset {offset} s), which is not supported; "
                "cut the recordings into one file for each utterance"
            )


def _parse_manifest(path: Path) -> Rows | Dataset:
    """Parse by suffix; a parquet file that holds the sound itself is a split already."""
    suffix = path.suffix.lower()
    if suffix not in MANIFEST_SUFFIXES:
        raise ValueError(f"{path} is not a manifest; use one of the formats {', '.join(MANIFEST_SUFFIXES)}")
    if suffix == ".parquet":
        split = Dataset(InMemoryTable(parquet.read_table(path)))
        holds_sound = any(not isinstance(feature, Value) for feature in split.features.values())
        return _without_decoding(split) if holds_sound else split.to_list()
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte-order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"manifest {path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    return list(_parse_table(path, text) if suffix in (".csv", ".tsv") else _parse_json(path, text))


def _parse_table(path: Path, text: str) -> Iterator[dict[str, Any]]:
    tabs = path.suffix.lower() == ".tsv"
    # Tab-separated corpora such as Common Voice write quotation marks as they are; commas need them as quotes.
    dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    table = csv.reader(io.StringIO(text, newline=""), **dialect)  # splitlines() also splits at Unicode separators
    header = next(table, [])
    while True:
        try:
            fields = next(table, None)
        except csv.Error as error:
            raise ValueError(f"{path}, line {table.line_num}, cannot be parsed: {error}; check the quotes") from error
        if fields is None:
            return
        if not fields:
            continue
        if len(fields) != len(header):
            remedy = "check the tabs" if tabs else "put quotes round a transcript that contains commas"
            raise ValueError(
                f"{path}, line {table.line_num}, has {len(fields)} fields and the header has {len(header)} "
                f"({', '.join(header)}); {remedy}"
            )
        yield dict(zip(header, fields, strict=True))


def _parse_json(path: Path, text: str) -> Iterator[dict[str, Any]]:
    """Parse a JSON list of rows, or JSON lines under either suffix (NeMo calls them .json)."""
    if text.lstrip().startswith("["):
        parts = [(1, text)]
    else:
        parts = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, part in parts:
        try:
            value = json.loads(part)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number + error.lineno - 1}, is not JSON: {error.msg}") from error
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}, holds {type(row).__name__}; each row is a JSON object")
            yield row


def _read_folder(folder: Path, audio_column: str | None, cache_dir: str | os.PathLike | None = None) -> RawSplits:
    """Tell the kinds of folder apart: a LibriSpeech tree, an audio folder, manifests, a saved data set, the rest."""
    for root in (folder, folder / "LibriSpeech"):
        librispeech = _read_librispeech(root)
        if librispeech:
            return librispeech
    if (folder / "dataset_dict.json").is_file():
        return dict(load_from_disk(str(folder)))
    if (folder / "state.json").is_file():
        return {"train": load_from_disk(str(folder))}
    for root in (folder, folder / "data"):
        splits = _audio_folder_splits(root, audio_column) or _manifest_splits(root, audio_column)
        if splits:
            return splits
    if any(next(folder.rglob(f"*{suffix}"), None) for suffix in (".parquet", ".zip")):  # a copy of a Hub repository
        try:
            return _build_with_datasets(str(folder), None, cache_dir, None)
        except (OSError, DatasetsError) as error:
            raise ValueError(f"folder {folder} cannot be read by datasets ({error}); give a manifest") from error
    raise NoCorpusError(
        f"folder {folder} holds no corpus: no metadata.csv or metadata.jsonl in it or in split folders, no manifest "
        "such as train.csv, no LibriSpeech *.trans.txt; write a metadata.csv with the columns file_name and "
        "transcription"
    )


def _audio_folder_splits(folder: Path, audio_column: str | None) -> RawSplits:
    """Read the audio-folder layout of `datasets`: metadata beside the audio, in the root or in folders per split."""
    metadata = _metadata_file(folder)
    if metadata is None:
        children = sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
        found = {child.name: _metadata_file(child) for child in children}
        return {name: read_manifest(file, audio_column) for name, file in found.items() if file}
    whole = read_manifest(metadata, audio_column)
    # One metadata file in the root can describe every split by its file names: train/a.wav, test/b.wav.
    tops = [name.split("/")[0] if "/" in name else "" for name in whole["utterance_id"]]
    if all(split_role(top) for top in tops):
        order = dict.fromkeys(tops)
        return {split: whole.select([row for row, top in enumerate(tops) if top == split]) for split in order}
    return {"train": whole}


def _metadata_file(folder: Path) -> Path | None:
    names = [f"metadata{suffix}" for suffix in (".csv", ".jsonl", ".parquet")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _manifest_splits(folder: Path, audio_column: str | None) -> RawSplits:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [file for file in files if file.is_file() and file.suffix.lower() in MANIFEST_SUFFIXES]
    return {file.stem: read_manifest(file, audio_column) for file in files if split_role(file.stem)}


def _read_one_split(path: Path, audio_column: str | None) -> Dataset:
    """Read the manifest or the single-split folder that a mapping gives for a split."""
    path = path.expanduser()
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder (looked in {Path.cwd()}); check the path")
    if path.is_file():
        return read_manifest(path, audio_column)
    splits = _read_folder(path, audio_column)
    if len(splits) > 1:
        raise ValueError(f"{path} holds the splits {', '.join(splits)}; name the folder of one of them")
    return next(iter(splits.values()))


def split_role(name: str) -> str | None:
    """Tell which of train, validation and test a split of this name is for; None if the name doesn't say."""
    return next((role for role, aliases in SPLIT_ALIASES.items() if name.lower() in aliases), None)


def _read_librispeech(root: Path) -> RawSplits:
    """Read the tree that OpenSLR 12 unpacks to and torchaudio.datasets.LIBRISPEECH reads.

    `<split>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt` with flac files beside it. The splits keep their
    names, and train-* together are also "train", dev-* "validation", test-clean (or the only test) "test".
    """
    folders = [root, *sorted(child for child in root.glob("*") if child.is_dir())]
    splits = {folder.name: split for folder in folders if (split := _read_librispeech_split(folder)) is not None}
    if not splits:
        return {}
    if list(splits) == [root.name]:
        return {"train": splits[root.name]}  # the path of one split: it is cut into three
    groups = {
        "train": [name for name in splits if name.startswith("train-")],
        "validation": [name for name in splits if name.startswith("dev-")],
        "test": [name for name in splits if name == "test-clean"] or [n for n in splits if n.startswith("test-")],
    }
    groups = {split: names for split, names in groups.items() if names}
    return splits | {split: concatenate_datasets([splits[name] for name in names]) for split, names in groups.items()}


def _read_librispeech_split(folder: Path) -> Dataset | None:
    files = sorted(folder.glob("*/*/*.trans.txt"))
    if not files:
        return None
    values: dict[str, list[Any]] = {"audio": [], "text": [], "speaker_id": []}
    names = []
    for file in files:
        for line in file.read_text(encoding="utf-8").split("\n"):
            name, _, text = line.strip().partition(" ")
            if name:
                names.append(name)
                values["audio"].append(str(file.parent / f"{name}.flac"))
                values["text"].append(text)
                values["speaker_id"].append(file.parent.parent.name)
    return _with_audio(values, "audio", names)


def _looks_local(name: str) -> bool:
    return (
        name.startswith((os.sep, ".", "~"))
        or name.count("/") > 1  # a Hub id is name or owner/name
        or os.sep != "/" and os.sep in name
        or Path(name).suffix.lower() in (*MANIFEST_SUFFIXES, ".txt", ".zip", ".wav", ".flac")
    )  # fmt: skip


class _UndecodedAudio(Audio):
    """Audio that a builder can write without torchcodec: a path or bytes are stored as they are."""

    def encode_example(self, value: str | bytes | dict[str, Any]) -> dict[str, Any]:
        """Store the path of a file, or the bytes of what lies in an archive."""
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": bytes(value), "path": None}
        if isinstance(value, dict):
            return {"bytes": value.get("bytes"), "path": value.get("path")}
        if "://" not in str(value):
            return {"bytes": None, "path": str(value)}
        with fsspec.open(value, "rb") as file:  # zip://a.wav::archive.zip
            return {"bytes": file.read(), "path": str(value).partition("::")[0]}


def _build_with_datasets(
    name: str, config_name: str | None, cache_dir: str | os.PathLike | None, token: str | None
) -> RawSplits:
    builder = load_dataset_builder(
        name, config_name, cache_dir=None if cache_dir is None else str(cache_dir), token=token
    )
    if hasattr(builder, "BASE_FEATURE"):  # an audio folder
        builder.BASE_FEATURE = _UndecodedAudio
    builder.download_and_prepare()
    return {split: _without_decoding(data) for split, data in builder.as_dataset().items()}


def _without_decoding(data: Dataset) -> Dataset:
    for column, feature in data.features.items():
        if isinstance(feature, Audio):
            data = data.cast_column(column, Audio(decode=False))
    return data
