"""Manifests: CSV, TSV, JSON, JSON-lines (NeMo's) and parquet files that name one audio file in each row.

They are read here and not by `datasets`' builders, because those read the words "null", "none" and "NA" as missing
values (German "null" is the digit zero), and turn speaker "007" into 7.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Value
from datasets.table import InMemoryTable
from pyarrow import parquet

from hf_speechft.data.raw_splits import AUDIO_COLUMNS, name_audio_files, without_decoding

Rows = list[dict[str, Any]]

MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def read_manifest(path: Path, audio_column: str | None = None) -> Dataset:
    """Read a CSV, TSV, JSON, JSON-lines or parquet file that names one audio file in each row.

    Relative paths are resolved against the manifest's folder. Fields are kept as the text that they are in the file.

    Raises:
        ValueError: A line cannot be parsed, there are no rows, or no column names the audio.
    """
    rows = parse_manifest(path, audio_column)
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
    return name_audio_files(values, audio_column, [_relative_name(name) for name in files])


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


def parse_manifest(path: Path, audio_column: str | None = None) -> Rows | Dataset:
    """Parse by suffix; a parquet file whose audio column holds the sound itself is a split already."""
    suffix = path.suffix.lower()
    if suffix not in MANIFEST_SUFFIXES:
        raise ValueError(f"{path} is not a manifest; use one of the formats {', '.join(MANIFEST_SUFFIXES)}")
    if suffix == ".parquet":
        split = Dataset(InMemoryTable(parquet.read_table(path)))
        audio = [split.features[name] for name in (audio_column, *AUDIO_COLUMNS) if name in split.features]
        holds_sound = any(not isinstance(feature, Value) or "binary" in feature.dtype for feature in audio)
        return without_decoding(split) if holds_sound else split.to_list()
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte-order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"manifest {path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    return list(_parse_table(path, text) if suffix in (".csv", ".tsv") else _parse_json(path, text))


def _parse_table(path: Path, text: str) -> Iterator[dict[str, Any]]:
    tabs = path.suffix.lower() == ".tsv"
    # Tab-separated corpora such as Common Voice write quotation marks as they are; commas need them as quotes.
    dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
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
        if any(_holds_a_row(field, len(header)) for field in fields):
            raise ValueError(
                f"{path}, line {table.line_num}, ends a field with a line break and what looks like another row; "
                "check the quotes, and write a transcript in one line"
            )
        yield dict(zip(header, fields, strict=True))


def _holds_a_row(field: str, columns: int) -> bool:
    """Tell whether an unbalanced quote has swallowed a row: a later line of the field has commas enough for one."""
    _, *lines = field.splitlines() or [""]
    return any(line.count(",") >= columns - 1 for line in lines)


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
