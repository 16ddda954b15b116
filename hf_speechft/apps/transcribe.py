"""`hf-speechft transcribe`: audio files of any format and length to text, JSON or subtitles, one line a problem."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_speechft.apps.files import Format, output_paths, write_text
from hf_speechft.apps.models import load_decoder, load_model
from hf_speechft.apps.recognition_options import (
    BeamsOption,
    ChunkOption,
    DeviceOption,
    HotwordOption,
    ModelOption,
    PhrasesOption,
    read_hotwords,
    read_phrases,
)

if TYPE_CHECKING:
    import numpy as np

    from hf_speechft.decoding import CTCDecoder, Transcript
    from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
    from hf_speechft.model.processing_speechbert import SpeechBertProcessor

BLOCK_S = 10.0  # audio between two moves of the progress bar
BAR_FROM_S = 60.0  # shorter recordings are done before a bar would be read


def transcribe(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Audio: wav, flac, mp3, ogg, opus, m4a or webm.")],
    model: ModelOption = None,
    beams: BeamsOption = None,
    hotword: HotwordOption = None,
    phrases: PhrasesOption = None,
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
    device: DeviceOption = None,
    chunk_s: ChunkOption = None,
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
        hotwords = read_hotwords(hotword or [])
        sentences = None if phrases is None else read_phrases(phrases)
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
            result = _render(file, transcript, output_format, loaded[1].tokenizer.separator)
            if target is not None:
                write_text(target, result)
                continue
        except (ValueError, OSError) as error:
            failures += 1
            _complain(str(error) if file in str(error) else f"{file}: {error}")
            continue
        is_named = output_format is Format.TEXT and len(files) > 1
        typer.echo(_printable(f"{file}: {result}" if is_named else result), nl=False)
    if failures:
        raise typer.Exit(1)


def _printable(text: str) -> str:
    """Text with U+FFFD where a file's name is no UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _choose_format(output_format: Format, as_json: bool) -> Format:
    if as_json and output_format not in (Format.TEXT, Format.JSON):
        raise typer.BadParameter(f"--json and --format {output_format} exclude each other; give one of them")
    return Format.JSON if as_json else output_format


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
        return json.dumps({"file": file, **transcript.to_dict()}, ensure_ascii=False) + "\n"
    from hf_speechft.decoding.subtitles import make_cues, to_srt, to_vtt

    cues = make_cues(transcript.words, separator=separator)
    return to_srt(cues) if output_format is Format.SRT else to_vtt(cues)


def _complain(message: object) -> None:
    typer.echo(f"hf-speechft: {message}", err=True)
