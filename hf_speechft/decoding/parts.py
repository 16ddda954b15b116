"""Rows of a long job on the disk: parts that survive a kill, and all rows of them in the order of their index.

Each process of each start writes JSON lines into a part of its own, and every batch of rows is on the disk before the
next is begun. What was written is never changed: a line that a kill cut off has no end, and counts as not written.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

__all__ = ["Part", "Place", "find_rows", "next_start", "read_rows", "write_jsonl", "write_parquet"]

PARQUET_ROWS = 1_000  # in memory at once


class Part:
    """A new file of rows; use it as a context manager.

    Args:
        folder: Folder of all parts of a job, made if it does not exist.
        start: Number of this start of the job, from `next_start`.
        process: Number of the process.

    Raises:
        FileExistsError: Another run writes it at this moment.
    """

    def __init__(self, folder: Path, start: int, process: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{start:05d}-{process:05d}.jsonl"
        if path.exists():
            raise FileExistsError(f"another run writes {path} at this moment; wait for its end, and start again")
        self._file = path.open("xb")

    def __enter__(self) -> "Part":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, each with an `index` and an `error`, and wait until they are on the disk."""
        self._file.write(b"".join(_line(row) for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())


class Place(NamedTuple):
    """Where a row is: its part, the byte at which it begins, and whether it is an error."""

    part: Path
    offset: int
    is_error: bool


def next_start(folder: Path) -> int:
    """Number that no start of the job has had, from 1."""
    return 1 + max((int(part.stem.split("-")[0]) for part in folder.glob("*-*.jsonl")), default=0)


def find_rows(folder: Path) -> dict[int, Place]:
    """Find the row of each index that has one.

    Args:
        folder: Folder of the parts; it need not exist.

    Returns:
        By index the place of its row: of several the last one without an error, or the last.

    Raises:
        ValueError: A whole line is not a row.
    """
    found: dict[int, Place] = {}
    for part in sorted(folder.glob("*-*.jsonl")):
        offset = 0
        with part.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    row = _parse(line, part, offset)
                    is_error = row["error"] is not None
                    if not is_error or row["index"] not in found or found[row["index"]].is_error:
                        found[row["index"]] = Place(part, offset, is_error)
                offset += len(line)
    return found


def read_rows(places: Iterable[Place]) -> Iterator[dict[str, Any]]:
    """Read rows in the order of their places; one is in memory at a time."""
    with ExitStack() as stack:
        files: dict[Path, Any] = {}
        for part, offset, _ in places:
            if part not in files:
                files[part] = stack.enter_context(part.open("rb"))
            files[part].seek(offset)
            yield json.loads(files[part].readline())


def write_jsonl(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write rows as JSON lines."""
    with path.open("wb") as file:
        file.writelines(_line(row) for row in rows)


def write_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write rows of transcripts as parquet; columns that they lack are null."""
    import pyarrow as pa  # comes with datasets
    from pyarrow import parquet

    text, number = pa.string(), pa.float64()
    word = pa.struct([("text", text), ("start_s", number), ("end_s", number), ("confidence", number)])
    schema = pa.schema(
        [
            ("index", pa.int64()),
            ("utterance_id", text),
            ("reference", text),
            ("text", text),
            ("words", pa.list_(word)),
            ("duration_s", number),
            ("rejection_score", number),
            ("error", text),
        ]
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _groups(rows, PARQUET_ROWS):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _groups(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[Sequence[Mapping[str, Any]]]:
    group: list[Mapping[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _parse(line: bytes, part: Path, offset: int) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{part} is damaged at byte {offset} ({error}); delete the file, and its recordings are transcribed again"
        ) from error
