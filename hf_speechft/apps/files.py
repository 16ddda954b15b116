"""The formats in which results are written, and where."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path


class Format(StrEnum):
    """How words and times are written."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"

    @property
    def suffix(self) -> str:
        """Ending of a file of this format."""
        return ".txt" if self is Format.TEXT else f".{self}"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, and make its folder if there is none.

    Args:
        path: The file; one that is there is replaced.
        text: Its text.

    Raises:
        ValueError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error


def output_paths(files: Sequence[str], folder: str, output_format: Format) -> list[Path]:
    """Name for each input the file in `folder` that its result goes to: `talk.mp3` becomes `talk.srt`.

    Args:
        files: Inputs.
        folder: Where results are written.
        output_format: It gives the ending.

    Returns:
        A path for each input.

    Raises:
        ValueError: Two inputs have the same path.
    """
    sources: dict[Path, str] = {}
    for file in files:
        path = Path(folder).expanduser() / (Path(file).stem + output_format.suffix)
        if path in sources:
            raise ValueError(
                f"{sources[path]} and {file} would both be written to {path}; rename one, "
                "or run twice with different folders"
            )
        sources[path] = file
    return list(sources)
