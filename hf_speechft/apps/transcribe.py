"""`hf-speechft transcribe`: audio files of any format and length to text, JSON or subtitles, one line a problem."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_speechft.apps.files import Format, output_paths, write_text
from hf_speechft.apps.models import load_decoder, load_model
from hf_speechft.data.text import read_text

if TYPE_CHECKING:
    import numpy as np

    from hf_speechft.decoding import CTCDecoder, TimedWord, Transcript
    from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
    from hf_speechft.model.processing_speechbert import SpeechBertProcessor

BLOCK_S = 10.0  # audio between two moves of the progress bar
BAR_FROM_S = 60.0  # shorter recordings are done before a bar would be read
GRAMMAR_SUFFIXES = {".jsgf", ".gram"}


def transcribe(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Audio: wav, flac, mp3, ogg, opus, m4a or webm.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_ID", help="Folder or Hub id of a SpeechBERT model. Default: runs/demo."),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(min=1, help="Width of the beam; 1 is greedy. Default: as saved beside the model, else greedy."),
    ] = None,
    hotword: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT[:WEIGHT]", help="A word or phrase to listen for; repeat for more. Weight: 5 if not given."
        ),
    ] = None,
    phrases: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The only sentences that may come out: a text file, one a line, or a grammar, .jsgf or .gram. "
            "For recordings of one utterance, 30 s at most.",
        ),
    ] = None,
    output_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="json: one object a file with file, text, words with times, duration_s. srt, vtt: subtitles.",
        ),
    ] = Format.TEXT,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    output_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write a file for each recording, named after it, instead of printing."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps… Default: an accelerator if there is one.")
    ] = None,
    chunk_s: Annotated[
        float | None,
        typer.Option(
            help="Length of the overlapping chunks that a recording is cut into. Default: 20, or the model's limit."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Chunks that go through the model at once.")] = 4,
) -> None:
    """Transcribe audio files of any length.

    One file gives its text; several give a line `file: text` each. A file that cannot be read is named on stderr, the
    others are transcribed, and the exit code is 1. With --phrases, JSON has a `rejection_score`: near 0 for what is
    one of the phrases, large for anything else, null where the recording is too short for any.
    """
    output_format = _choose_format(output_format, as_json)
    if output_format in (Format.SRT, Format.VTT) and len(files) > 1 and output_dir is None:
        raise typer.BadParameter(f"--format {output_format} of several files needs --output-dir DIR to write them to")
    try:
        targets = [None] * len(files) if output_dir is None else output_paths(files, output_dir, output_format)
        hotwords = _read_hotwords(hotword or [])
        sentences = None if phrases is None else _read_phrases(phrases)
        loaded = load_model(model, device)
        decoder = load_decoder(*loaded, beams=beams, hotwords=hotwords, phrases=sentences)
        _check_chunk(*loaded, chunk_s)
    except ValueError as error:
        _complain(error)
        raise typer.Exit(1) from None
    failures = 0
    for file, target in zip(files, targets, strict=True):
        try:
            transcript = _transcribe_file(file, *loaded, decoder, chunk_s, batch_size)
            separator = " " if decoder is None else decoder.units.separator
            result = _render(file, transcript, output_format, separator)
            if target is not None:
                write_text(target, result)
                continue
        except (ValueError, OSError) as error:
            failures += 1
            _complain(str(error) if file in str(error) else f"{file}: {error}")
            continue
        is_named = output_format is Format.TEXT and len(files) > 1
        typer.echo(f"{file}: {result}" if is_named else result, nl=False)
    if failures:
        raise typer.Exit(1)


def _choose_format(output_format: Format, as_json: bool) -> Format:
    if as_json and output_format not in (Format.TEXT, Format.JSON):
        raise typer.BadParameter(f"--json and --format {output_format} exclude each other; give one of them")
    return Format.JSON if as_json else output_format


def _read_hotwords(options: Sequence[str]) -> dict[str, float]:
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


def _read_phrases(file: str) -> list[str] | str:
    """Read the text of a grammar, or the lines of any other file."""
    text = read_text(file)
    if Path(file).suffix.lower() in GRAMMAR_SUFFIXES:
        return text
    sentences = [line.strip() for line in text.splitlines() if line.strip()]
    if not sentences:
        raise ValueError(f"{file} has no sentences; write one a line")
    return sentences


def _check_chunk(model: "SpeechBertForCTC", processor: "SpeechBertProcessor", chunk_s: float | None) -> None:
    """Refuse a chunk that doesn't fit the model once, and not for each file."""
    from hf_speechft.decoding.longform import plan_chunks

    plan_chunks(model, processor, chunk_s)


def _transcribe_file(
    file: str,
    model: "SpeechBertForCTC",
    processor: "SpeechBertProcessor",
    decoder: "CTCDecoder | None",
    chunk_s: float | None,
    batch_size: int,
) -> "Transcript":
    from hf_speechft.data.audio import stream_audio
    from hf_speechft.decoding import transcribe as transcribe_blocks

    rate_hz = processor.feature_extractor.sampling_rate
    blocks = _with_progress(stream_audio(file, rate_hz, BLOCK_S), file, rate_hz)
    return transcribe_blocks(blocks, model, processor, decoder=decoder, chunk_s=chunk_s, batch_size=batch_size)


def _with_progress(blocks: "Iterable[np.ndarray]", file: str, rate_hz: int) -> "Iterator[np.ndarray]":
    """Pass blocks on; on a terminal, show how much of a long recording has been read."""
    from tqdm import tqdm

    from hf_speechft.data.audio import audio_duration_s

    duration_s = audio_duration_s(file) if sys.stderr.isatty() else 0.0
    layout = "{desc}: {percentage:3.0f}% of {total:.0f} s |{bar}| {elapsed}<{remaining}"
    with tqdm(
        total=duration_s, desc=Path(file).name, disable=duration_s < BAR_FROM_S, leave=False, bar_format=layout
    ) as bar:
        for block in blocks:
            yield block
            bar.update(min(len(block) / rate_hz, duration_s - bar.n))


def _render(file: str, transcript: "Transcript", output_format: Format, separator: str) -> str:
    """Write a transcript in a format; `separator` stands between two words."""
    if output_format is Format.TEXT:
        return transcript.text + "\n"
    if output_format is Format.JSON:
        return _json_line(file, transcript)
    from hf_speechft.decoding.subtitles import make_cues, to_srt, to_vtt

    cues = make_cues(transcript.words, separator=separator)
    return to_srt(cues) if output_format is Format.SRT else to_vtt(cues)


def _json_line(file: str, transcript: "Transcript") -> str:
    line = {
        "file": file,
        "text": transcript.text,
        "words": [_word_fields(word) for word in transcript.words],
        "duration_s": round(transcript.duration_s, 3),
    }
    if transcript.rejection_score is not None:
        is_finite = transcript.rejection_score < float("inf")
        line["rejection_score"] = round(transcript.rejection_score, 3) if is_finite else None
    return json.dumps(line, ensure_ascii=False) + "\n"


def _word_fields(word: "TimedWord") -> dict:
    fields = {"text": word.text, "start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3)}
    return fields if word.confidence is None else {**fields, "confidence": round(word.confidence, 4)}


def _complain(message: object) -> None:
    typer.echo(f"hf-speechft: {message}", err=True)
