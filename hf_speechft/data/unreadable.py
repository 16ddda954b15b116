"""Clips that turn out to be unreadable in the middle of a run: their header was read, their samples cannot be.

They are noted in a file, one JSON line each, because it is the data loader's workers, on all processes of a machine,
that meet them. The file outlives the run, so that whoever owns the data can mend or drop what it names.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

UNREADABLE_FILE = "unreadable.jsonl"


@dataclass(frozen=True)
class UnreadableClip:
    """A clip that could not be decoded.

    Attributes:
        utterance_id: The row that needed it.
        file: Its file, which may have several rows (`augment.expand_speeds`); the utterance's id where it has none.
        error: What was wrong with it.
    """

    utterance_id: str
    file: str
    error: str


class UnreadableClips:
    """The clips that a run could not read, each file once.

    Whoever reads clips calls `note`, and may be a copy of this object in another process; the main process asks for
    what is `new`.

    Args:
        path: The file; made when there is something to note. What it holds already is not new.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._noted: set[str] = set()
        self._read_bytes = path.stat().st_size if path.exists() else 0

    def note(self, clip: UnreadableClip) -> None:
        """Write a clip down, unless this process has done so already."""
        if clip.utterance_id in self._noted:
            return
        self._noted.add(clip.utterance_id)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:  # a line is one write to the end, whole even among others
            file.write(json.dumps(asdict(clip), ensure_ascii=False) + "\n")

    def new(self) -> list[UnreadableClip]:
        """Clips noted since this object was made or last asked; some may come again, from another process."""
        size_bytes = self.path.stat().st_size if self.path.exists() else 0
        start_bytes = self._read_bytes if size_bytes >= self._read_bytes else 0  # it was begun anew
        self._read_bytes = size_bytes
        if size_bytes == start_bytes:
            return []
        with self.path.open("rb") as file:
            file.seek(start_bytes)
            return _parse(file.read(size_bytes - start_bytes))

    def all(self) -> list[UnreadableClip]:
        """Clips noted so far, also before an interruption, each row once."""
        if not self.path.exists():
            return []
        return list({clip.utterance_id: clip for clip in _parse(self.path.read_bytes())}.values())

    def forget(self) -> None:
        """Remove the file: a run starts anew."""
        self.path.unlink(missing_ok=True)
        self._read_bytes = 0


def _parse(lines: bytes) -> list[UnreadableClip]:
    return [UnreadableClip(**json.loads(line)) for line in lines.decode("utf-8").splitlines()]
