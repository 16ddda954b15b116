"""A folder of recordings that nothing describes: every audio file below it is one."""

from __future__ import annotations

import os
from pathlib import Path

from datasets import Audio, Dataset

from hf_speechft.data.sounds import SUFFIXES


def list_audio_files(folder: str | os.PathLike) -> Dataset:
    """List the audio files of a folder, at any depth, in the order of their paths.

    Args:
        folder: Where to look. Files and folders whose names begin with a dot are passed over.

    Returns:
        Columns `audio` (not decoded) and `utterance_id`, the path within the folder.

    Raises:
        ValueError: There is no audio file.
    """
    root = Path(folder).expanduser()
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.relative_to(root) for path in paths]
    shown = [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]
    if not shown:
        raise ValueError(f"folder {root} has no audio files (looked for {' '.join(sorted(SUFFIXES))})")
    files = Dataset.from_dict({"audio": [str(root / name) for name in shown], "utterance_id": shown})
    return files.cast_column("audio", Audio(decode=False))
