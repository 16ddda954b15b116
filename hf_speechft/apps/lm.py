"""`hf-speechft lm`: n-gram language models from text files, and how well they predict other text."""

import os
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hf_speechft.decoding import NGramLM

ENDINGS = (".arpa", ".arpa.gz", ".safetensors")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

app = typer.Typer(help="N-gram language models: build from text, score text.", no_args_is_help=True)

TextFiles = Annotated[list[str], typer.Argument(metavar="TEXT_FILE", help="UTF-8 text, one sentence a line.")]


class Normalizer(StrEnum):
    """Names of the text normalisers in `hf_speechft.data.text`."""

    NONE = "none"
    BASIC = "basic"
    ENGLISH = "english"
    CASED = "cased"


NormalizerOption = Annotated[
    Normalizer, typer.Option(help="How the text is written before words are counted. Use the recogniser's.")
]

CharactersOption = Annotated[
    bool,
    typer.Option(
        "--characters", help="Each character and its combining marks are a word: for Chinese, Japanese, Thai…"
    ),
]


@app.command()
def build(
    files: TextFiles,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="What to write: .arpa, .arpa.gz or .safetensors (binary)."
        ),
    ],
    order: Annotated[int, typer.Option(help="Words in the longest n-grams; KenLM reads 6 or fewer.")] = 4,
    normalizer: NormalizerOption = Normalizer.NONE,
    characters: CharactersOption = False,
) -> None:
    """Estimate an n-gram language model with modified Kneser-Ney smoothing.

    Empty lines are skipped. A .safetensors file loads at once; an ARPA file can be read by other programs.
    """
    start_s = time.perf_counter()
    try:
        _check_output(output, order)
        text = _Text(files, normalizer, characters)
        lm = _estimate(text, order)
        _write(lm, output)
    except ValueError as error:
        _fail(error)
    counts = ", ".join(f"{count:,} {order}-grams" for order, count in enumerate(lm.counts, start=1))
    typer.echo(f"{output}: {counts} from {text.sentences:,} sentences, {time.perf_counter() - start_s:.1f} s")


@app.command()
def score(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="What `lm build` wrote, or any ARPA file.")],
    files: TextFiles,
    normalizer: NormalizerOption = Normalizer.NONE,
    characters: CharactersOption = False,
) -> None:
    """Score sentences: log10 of the probability, a tab, and the sentence; the perplexity comes last, on stderr.

    The perplexity is that of all words and sentence ends, unknown words included.
    """
    try:
        lm = load_lm(model)
        text = _Text(files, normalizer, characters)
        total, words, unknown = 0.0, 0, 0
        for line in text:
            log10_prob = lm.score(line)
            typer.echo(f"{log10_prob:.4f}\t{line}")
            total += log10_prob
            words += len(line.split())
            unknown += sum(lm.word_id(word) == 0 for word in line.split())
        if text.sentences == 0:
            raise ValueError(f"{', '.join(files)} has no words; give sentences, one a line")
    except ValueError as error:
        _fail(error)
    perplexity = 10 ** (-total / (words + text.sentences))
    summary = f"{text.sentences:,} sentences, {words:,} words ({unknown:,} unknown), perplexity {perplexity:.2f}"
    typer.echo(summary, err=True)


def load_lm(path: str) -> "NGramLM":
    """Read an n-gram model: the binary form if the name ends in .safetensors, else ARPA.

    Args:
        path: The file.

    Returns:
        The model.

    Raises:
        ValueError: The file is missing, of another kind or damaged.
    """
    from hf_speechft.decoding import NGramLM

    try:
        return NGramLM.load(path) if path.endswith(".safetensors") else NGramLM.from_arpa(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


class _TextError(ValueError):
    """A text file that cannot be read; the message names it."""


class _Text:
    """The normalised lines of text files that have words; on a terminal, reading shows a bar.

    Args:
        files: Paths.
        normalizer: Name of a text normaliser.
        characters: Whether each character is a word.

    Attributes:
        sentences: Lines given out so far.
        place: File and line that was read last.
    """

    def __init__(self, files: list[str], normalizer: str, characters: bool) -> None:
        for file in files:
            if Path(file).is_dir() or not Path(file).exists():  # pipes are neither files nor folders
                problem = "is a folder" if Path(file).is_dir() else "does not exist"
                raise _TextError(f"{file} {problem}; give text files, one sentence a line")
        self.files, self.normalizer, self.characters = files, normalizer, characters
        self.sentences, self.place = 0, ""

    def __iter__(self) -> Iterator[str]:
        from tqdm import tqdm

        from hf_speechft.data.text import normalize_text
        from hf_speechft.decoding.units import space_characters

        total = sum(os.path.getsize(file) for file in self.files)
        with tqdm(total=total, unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty()) as bar:
            for raw in self._raw_lines():
                try:
                    words = normalize_text(raw.decode(), self.normalizer).split()
                except UnicodeDecodeError as error:
                    raise _TextError(f"{self.place} is not UTF-8; convert the file") from error
                if words:
                    self.sentences += 1
                    yield " ".join(space_characters("".join(words)).split() if self.characters else words)
                bar.update(len(raw))

    def _raw_lines(self) -> Iterator[bytes]:
        for file in self.files:
            try:
                with open(file, "rb") as lines:
                    for number, line in enumerate(lines, start=1):
                        self.place = f"{file}, line {number}"
                        yield line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            except OSError as error:
                raise _TextError(f"{file} cannot be read: {error.strerror}") from error


def _check_output(output: str, order: int) -> None:
    """Refuse before the work what would fail behind it."""
    if not output.endswith(ENDINGS):
        raise ValueError(f"{output} has an unknown ending; -o needs one of {', '.join(ENDINGS)}")
    if not Path(output).absolute().parent.is_dir():
        raise ValueError(f"{output} cannot be written: its folder does not exist; make it first")
    if order < 1:
        raise ValueError(f"--order is {order}; it needs to be 1 or more")


def _estimate(text: _Text, order: int) -> "NGramLM":
    from hf_speechft.decoding import NGramLM

    def lines() -> Iterator[str]:
        yield from text
        text.place = ""  # errors from here on are about no line

    try:
        return NGramLM.from_text(lines(), order)
    except _TextError:
        raise
    except ValueError as error:
        raise ValueError(f"{text.place or ', '.join(text.files)}: {error}") from error


def _write(lm: "NGramLM", output: str) -> None:
    try:
        if output.endswith(".safetensors"):
            lm.save(output)
        else:
            lm.write_arpa(output)
    except OSError as error:
        raise ValueError(f"{output} cannot be written: {error.strerror or error.__cause__ or error}") from error


def _fail(error: ValueError) -> None:
    typer.echo(f"hf-speechft: {error}", err=True)
    raise typer.Exit(1) from None
