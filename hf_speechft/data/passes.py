"""An endless stream of training utterances: pass after pass over a corpus, the same after an interruption.

The Trainer counts the updates of a run, not its epochs, where a split has no length; an endless stream lets it do so.
Each pass has an order of its own (`IterableDataset.set_epoch`), which depends on the seed and the number of the pass
only. To go on in the middle, `datasets` could restore the place in the source but not its shuffle buffer, hence not
the same samples. So the pass is read again up to that place, without decoding, and earlier passes are left out: each
worker notes at which of its rows a pass begins.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count, repeat
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

from hf_speechft.data.filters import REASONS, FilterReport

COUNTED_ROWS = 100  # what was read is noted so often, and at the end of the first pass


class SpeechStream(torch.utils.data.IterableDataset):
    """Goes over a corpus without end, and drops what cannot be learned from.

    Where there are several speeds, each utterance is played at one of them in a pass, at the next in the next pass:
    after as many passes as there are speeds it was heard at each once.

    Args:
        rows: From `stream_corpus`, shuffled.
        find_reason: Called with a duration in seconds and a transcript; says why to drop it (`filters.REASONS`), or
            None to keep it.
        folder: Where workers note what they dropped, and where their passes begin. It needs to be another one for
            another corpus, other limits or another seed.
        speeds: Factors, as for `augment.expand_speeds`.
        augmented: Whether the collator augments the rows.
        process: Number of this process among all.
        processes: How many share the stream.
    """

    def __init__(
        self,
        rows: IterableDataset,
        find_reason: Callable[[float, str], str | None],
        *,
        folder: Path,
        speeds: Sequence[float] = (1.0,),
        augmented: bool = False,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.rows = split_dataset_by_node(rows, process, processes) if processes > 1 else rows
        self.find_reason = find_reason
        self.folder = folder
        self.speeds = tuple(speeds)
        self.augmented = augmented
        self.process = process
        self.processes = processes
        self.skipped = (0, 1)  # batches, and rows in each

    @property
    def shards(self) -> int:
        """Parts of the source that workers of this process can share; more workers than that would get nothing."""
        return self.rows.num_shards

    def skip(self, batches: int, batch_size: int) -> None:
        """Go on behind so many batches: their rows will be None, quickly, and those behind them what they would be.

        Args:
            batches: Batches that this process was given, from all of its workers.
            batch_size: Rows in each.
        """
        self.skipped = (batches, batch_size)
        if not batches:
            for file in self.folder.glob(f"*/{self.process}-*.jsonl"):  # of a run that never got to a checkpoint
                file.unlink()

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        """Yield the rows of this process and worker, each with the number of its pass as `epoch`."""
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        notes = _Notes(self._notes_folder(workers) / f"{self.process}-{worker}.jsonl")
        batches, batch_size = self.skipped
        skipped = len(range(worker, batches, workers)) * batch_size  # workers take turns
        yield from repeat(None, skipped)
        first, given = notes.find_pass(skipped)
        for number in count(first):
            notes.write({"pass": number, "rows": given})
            before = given
            for row in self._read_pass(number, notes):
                given += 1
                if given > skipped:
                    yield row
            if given == before:
                return  # nothing can be learned from, which the trainer reports

    def _read_pass(self, number: int, notes: _Notes) -> Iterator[dict[str, Any]]:
        rows = self.rows.with_format(None)  # a copy, since workers share the epoch of the original
        rows.set_epoch(number)
        for row in rows:
            reason = self.find_reason(row["duration_s"], row["text"])
            if number == 0:
                notes.count(row, reason)
            if reason is None:
                yield self._play(row, number)
        if number == 0:
            notes.write_counts()

    def _play(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        row = dict(row) | {"epoch": number}
        if self.augmented:
            row["augmented"] = True
        # A hash, so that the utterances of a batch have different speeds.
        speed = self.speeds[(zlib.crc32(row["utterance_id"].encode()) + number) % len(self.speeds)]
        if speed == 1.0:
            return row
        name = f"{row['utterance_id']}@{speed:g}"
        return row | {"speed": speed, "duration_s": row["duration_s"] / speed, "utterance_id": name}

    def report(self, workers: int, name: str = "train") -> FilterReport:
        """Say what the first pass kept and dropped, as far as it was read, by all processes.

        Args:
            workers: Data loader workers of each process.
            name: Of the split.
        """
        report = FilterReport(name)
        dropped: dict[str, dict[str, None]] = {}
        for file in sorted(self._notes_folder(max(1, workers)).glob("*.jsonl")):
            counts = {"kept": 0, "kept_s": 0.0, "dropped_s": 0.0}
            for note in _Notes(file).read():
                if "dropped" in note:  # a row that was read again after an interruption is one utterance
                    dropped.setdefault(note["dropped"], {})[note["utterance"]] = None
                elif "kept" in note and note["kept"] >= counts["kept"]:
                    counts = note
            report.kept += counts["kept"]
            report.kept_s += counts["kept_s"]
            report.dropped_s += counts["dropped_s"]
        report.dropped = {reason: list(dropped[reason]) for reason in REASONS if reason in dropped}
        return report

    def _notes_folder(self, workers: int) -> Path:
        """Notes hold for this number of processes and workers only, as they share the rows out."""
        return self.folder / f"{self.processes}x{workers}"


class _Notes:
    """What one worker notes: JSON lines, of which a kill can cut off one."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.counts = {"kept": 0, "kept_s": 0.0, "dropped_s": 0.0}
        self.rows = 0

    def write(self, note: dict[str, Any]) -> None:
        """Add a line; it begins with its line break, so that one that was cut off spoils no other."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(note, ensure_ascii=False))

    def count(self, row: dict[str, Any], reason: str | None) -> None:
        """Count a row of the first pass."""
        self.rows += 1
        if reason is None:
            self.counts["kept"] += 1
            self.counts["kept_s"] += row["duration_s"]
        else:
            self.counts["dropped_s"] += 0.0 if row["duration_s"] != row["duration_s"] else row["duration_s"]
            self.write({"dropped": reason, "utterance": row["utterance_id"]})
        if self.rows % COUNTED_ROWS == 0:
            self.write_counts()

    def write_counts(self) -> None:
        """Note what was counted so far."""
        self.write(self.counts)

    def read(self) -> list[dict[str, Any]]:
        """All notes that are whole."""
        notes = []
        for line in self.file.read_text(encoding="utf-8").split("\n") if self.file.is_file() else ():
            try:
                notes += [json.loads(line)] if line else []
            except json.JSONDecodeError:
                continue  # cut off
        return notes

    def find_pass(self, rows: int) -> tuple[int, int]:
        """Find the last pass that begins at or before a row, and the row at which it begins."""
        begins = {note["pass"]: note["rows"] for note in self.read() if "pass" in note and note["rows"] <= rows}
        return max(begins.items(), default=(0, 0))
