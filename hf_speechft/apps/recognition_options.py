"""Options of the commands that recognise, and what is read from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hf_speechft.data.text import read_text

GRAMMAR_SUFFIXES = {".jsgf", ".gram"}

ModelOption = Annotated[
    str | None,
    typer.Option(metavar="DIR_OR_ID", help="Folder or Hub id of a SpeechBERT model. Default: runs/demo."),
]
BeamsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Width of the beam; 1 is greedy. Default: as saved beside the model, else greedy."),
]
HotwordOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT[:WEIGHT]", help="A word or phrase to listen for; repeat for more. Weight: 5 if not given."
    ),
]
PhrasesOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The only sentences that may come out: a text file, one a line, or a grammar, .jsgf or .gram. "
        "For recordings of one utterance, 30 s at most.",
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps… Default: an accelerator if there is one.")
]
ChunkOption = Annotated[
    float | None,
    typer.Option(
        help="Length of the overlapping chunks that a recording is cut into. Default: 20, or the model's limit."
    ),
]


def read_hotwords(options: Sequence[str]) -> dict[str, float]:
    """Split each `TEXT:WEIGHT`; without a number behind the last colon all of it is text."""
    from hf_speechft.decoding.knowledge import HOTWORD_WEIGHT

    hotwords = {}
    for option in options:
        text, colon, weight = option.rpartition(":")
        try:
            hotwords[text if colon else option] = float(weight) if colon else HOTWORD_WEIGHT
        except ValueError:
            hotwords[option] = HOTWORD_WEIGHT
    return hotwords


def read_phrases(file: str) -> list[str] | str:
    """Read the text of a grammar, or the lines of any other file."""
    text = read_text(file)
    if Path(file).suffix.lower() in GRAMMAR_SUFFIXES:
        return text
    sentences = [line.strip() for line in text.splitlines() if line.strip()]
    if not sentences:
        raise ValueError(f"{file} has no sentences; write one a line")
    return sentences
