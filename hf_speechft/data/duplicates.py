"""Recordings that a corpus holds more than once, found by content.

Hashing every file would read the whole corpus. So files are grouped by size and duration first, then by 4 KiB from
their middle, and only what is still together is hashed as a whole.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from datasets import DatasetDict
from tqdm import tqdm

from hf_speechft.data.findings import Finding, Flag, Utterance, counted

_PIECE_BYTES = 4096
_BATCH = 100  # rows that are in memory at once, with their sound where the data set holds it


@dataclass(frozen=True, slots=True)
class _File:
    """An utterance's file; `path` is None where the data set holds the bytes itself."""

    utterance: Utterance
    path: str | None
    size: int


def find_duplicates(
    corpus: DatasetDict, utterances: Sequence[Utterance], *, show_progress: bool = False
) -> list[list[Utterance]]:
    """Group the utterances whose files hold the same bytes; files that cannot be read are left out.

    Args:
        corpus: From `load_corpus`.
        utterances: Its rows.
        show_progress: Whether to show a bar.

    Returns:
        Groups of two or more utterances, in the order of `utterances`.
    """
    by_size_and_duration = _refine(
        [_files(corpus, utterances)], lambda file: (file.size, round(file.utterance.duration_s, 6))
    )
    bar = tqdm(by_size_and_duration, desc="Comparing files of equal size", disable=not show_progress)
    by_piece = _refine(bar, lambda file: _digest(file, corpus, is_whole=False))
    by_content = _refine(by_piece, lambda file: _digest(file, corpus, is_whole=True))
    return [[file.utterance for file in group] for group in by_content]


def check_duplicates(groups: Sequence[Sequence[Utterance]]) -> list[Finding]:
    """Report recordings that are in several splits, and those that are in one split several times.

    Args:
        groups: From `find_duplicates`.

    Returns:
        Two findings.
    """
    across = [group for group in groups if len({utterance.split for utterance in group}) > 1]
    return [_across(across), _within(groups)]


def _across(groups: Sequence[Sequence[Utterance]]) -> Finding:
    check = "duplicates across splits"
    if not groups:
        return Finding(check, "fine", "no recording is in two splits")
    message = f"{counted(len(groups), 'recording')} in several splits, which flatters the results"
    flags = [
        Flag(utterance, _same_as(group[0], utterance))
        for group in groups
        for utterance in group
        if utterance.split != group[0].split
    ]
    return Finding(check, "problem", message, "keep each recording in one split only", flags)


def _within(groups: Sequence[Sequence[Utterance]]) -> Finding:
    check = "duplicates within a split"
    flags, contradictions = [], 0
    for group in groups:
        first: dict[str, Utterance] = {}
        for utterance in group:
            original = first.setdefault(utterance.split, utterance)
            if original is not utterance:
                flags.append(Flag(utterance, _same_as(original, utterance)))
                contradictions += original.text != utterance.text
    if not flags:
        return Finding(check, "fine", "no recording is in a split twice")
    message = f"{counted(len(flags), 'clip')} with the same sound as another of the split"
    if contradictions:
        message += f", {contradictions:,} of them with another transcript"
    remedy = "remove the copies" + (", and listen which transcript is right" if contradictions else "")
    return Finding(check, "problem" if contradictions else "look", message, remedy, flags)


def _same_as(original: Utterance, copy: Utterance) -> str:
    other_text = "" if original.text == copy.text else f", whose transcript is {original.text!r}"
    return f"same sound as {original.split} {original.utterance_id}{other_text}"


def _files(corpus: DatasetDict, utterances: Iterable[Utterance]) -> Iterator[_File]:
    rows = {(utterance.split, utterance.row): utterance for utterance in utterances if utterance.is_readable}
    for name, split in corpus.items():
        row = 0
        for batch in split.select_columns("audio").iter(_BATCH):
            for clip in batch["audio"]:
                utterance = rows.get((name, row))
                row += 1
                if utterance is not None:
                    yield _file(utterance, clip["path"], clip["bytes"])


def _file(utterance: Utterance, path: str | None, content: bytes | None) -> _File:
    if content is not None:
        return _File(utterance, None, len(content))
    try:
        return _File(utterance, path, Path(path).stat().st_size)
    except OSError:  # gone since its header was read
        return _File(utterance, path, -1)


def _refine(groups: Iterable[Iterable[_File]], key: Callable[[_File], Hashable]) -> list[list[_File]]:
    """Split groups by a key, and keep the parts with more than one member."""
    refined = []
    for group in groups:
        parts: dict[Hashable, list[_File]] = defaultdict(list)
        for file in group:
            parts[key(file)].append(file)
        refined += [part for value, part in parts.items() if len(part) > 1 and value is not None]
    return refined


def _digest(file: _File, corpus: DatasetDict, *, is_whole: bool) -> bytes | None:
    try:
        with _open(file, corpus) as stream:
            if is_whole:
                return hashlib.file_digest(stream, "blake2b").digest()
            stream.seek(max(0, (file.size - _PIECE_BYTES) // 2))
            return stream.read(_PIECE_BYTES)
    except OSError:
        return None


def _open(file: _File, corpus: DatasetDict) -> BinaryIO:
    if file.path is not None:
        return open(file.path, "rb")
    return io.BytesIO(corpus[file.utterance.split][file.utterance.row]["audio"]["bytes"])
