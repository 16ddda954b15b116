"""Save a folder of files so that a full disk or a killed process leaves the previous good files in place.

Everything is written into a folder of its own inside the target (so on the same file system), flushed to the disk,
and only then moved over the old files, one rename at a time. A rename needs no more space and is atomic: each file
is the old one or the new one, never a part of one. The renames together take milliseconds; a kill exactly then can
leave new files beside old ones, which matters only if the two saves had different configurations.

One process saves into a folder at a time, as with the Trainer's main process.
"""

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

TEMPORARY_PREFIX = ".saving-"

# Below this the disk counts as full even when the writer's library says otherwise (torch.save reports a full disk
# as "PytorchStreamWriter failed writing file", without an error number).
FULL_BELOW_BYTES = 1_000_000


class SaveError(OSError):
    """A save failed; the files that were there before are untouched."""


def save_atomically(target_dir: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Let `write` fill an empty folder, then put its files in place of those in the target folder.

    Files of the target that `write` does not write stay as they are.

    Args:
        target_dir: folder that receives the files; made if absent.
        write: called once with an empty folder; writes files and sub-folders into it, such as
            `model.save_pretrained`.

    Raises:
        SaveError: if the disk is full or the folder cannot be written. What else `write` raises passes through. In
            each case the target's files are as before.
    """
    target_dir = Path(target_dir)
    temporary: Path | None = None
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target_dir)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=target_dir))
        write(temporary)
        _flush(temporary)
        _move_into_place(temporary, target_dir)
    except Exception as error:
        failure = _explain(error, target_dir, temporary)
        if failure is None:
            raise
        raise failure from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(target_dir: Path) -> None:
    """Free the space that a killed save still takes."""
    for leftover in target_dir.glob(f"{TEMPORARY_PREFIX}*"):
        logger.warning("removing %s, left by a save that was interrupted", leftover)
        shutil.rmtree(leftover, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Force every file to the disk: a rename that survives a power cut must not point to data that did not."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _move_into_place(source: Path, target_dir: Path) -> None:
    """Rename each file over the one of the same name, then make the renames durable."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for path in files:
        destination = target_dir / path.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, destination)
    for folder in {(target_dir / path.relative_to(source)).parent for path in files}:
        _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    """Write the folder's own entries to the disk, where the system can."""
    if os.name == "nt":  # Windows cannot open a folder for this
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: Exception, target_dir: Path, temporary: Path | None) -> SaveError | None:
    """Say what a person can do about the failure; None where it was not the disk's."""
    number = error.errno if isinstance(error, OSError) else None
    # safetensors raises its own error class, with the system's words in the message.
    says_full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)
    if says_full or (temporary is not None and _free_bytes(target_dir) < FULL_BELOW_BYTES):
        return _disk_full(target_dir, temporary)
    if isinstance(error, OSError):
        return SaveError(
            number or errno.EIO,
            f"cannot save to {target_dir}: {error}; the files saved before are untouched. Check that the folder is "
            "writable or choose another --output_dir",
        )
    return None


def _disk_full(target_dir: Path, temporary: Path | None) -> SaveError:
    """Give the bytes that were too few; the failed save's own are freed first, as they will be for the next."""
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)
    existing_bytes = sum(path.stat().st_size for path in target_dir.glob("*") if path.is_file())
    there = f" (the files there now take {existing_bytes:,} bytes)" if existing_bytes else ""
    return SaveError(
        errno.ENOSPC,
        f"the disk is full or the quota used up: saving to {target_dir} needs more than the "
        f"{_free_bytes(target_dir):,} bytes that are free{there}; the files saved before are untouched. Free space "
        "or choose another --output_dir, and save again",
    )


def _free_bytes(folder: Path) -> int:
    """Ask for the free bytes of the file system that a folder is on, or will be on once it is made."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free
