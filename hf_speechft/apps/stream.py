"""`hf-speechft stream`: text while the sound comes, from a microphone's pipe or a file."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from hf_speechft.apps.models import load_model
from hf_speechft.apps.recognition_options import DeviceOption

if TYPE_CHECKING:
    import numpy as np

STDIN = "-"
PCM_BYTES = 2  # of a sample


def stream(
    source: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Audio file of any format; - for mono 16-bit PCM on standard input."),
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_ID", help="Folder or Hub id of a causal SpeechBERT model. Default: runs/demo."),
    ] = None,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Rate of the PCM in Hz. Default: the model's, the only one it takes.")
    ] = None,
    piece_ms: Annotated[int, typer.Option(min=1, help="Sound that is recognised at once.")] = 80,
    restart_s: Annotated[
        float, typer.Option(min=0.0, help="After so many seconds the model forgets, in the next pause of 0.4 s.")
    ] = 15.0,
    device: DeviceOption = None,
) -> None:
    """Write text while the sound comes, as from a microphone.

    The model needs to be trained for it, with `--attention causal --normalize running`. For instance:

    `arecord -q -t raw -f S16_LE -r 16000 | hf-speechft stream - --model runs/causal`

    Ctrl-C ends the sound of a pipe: the last words are still written.
    """
    if rate is not None and source != STDIN:
        raise typer.BadParameter("--rate is that of PCM on standard input; a file tells its own")
    has_written = False
    try:
        recogniser, processor = load_model(model, device)
        from hf_speechft.decoding import StreamingRecognizer

        rate_hz = processor.feature_extractor.sampling_rate
        given_hz = (rate or rate_hz) if source == STDIN else rate_hz
        recognizer = StreamingRecognizer(recogniser, processor, sampling_rate=given_hz, restart_s=restart_s)
        for piece in _read(source, rate_hz, piece_ms):
            if text := recognizer.accept(piece):
                typer.echo(text, nl=False)
                has_written = True
        typer.echo(recognizer.finish())
    except (ValueError, OSError) as error:
        if has_written:
            typer.echo()
        typer.echo(f"hf-speechft: {error}", err=True)
        raise typer.Exit(1) from None


def _read(source: str, rate_hz: int, piece_ms: int) -> "Iterator[np.ndarray]":
    """Pieces `(samples,)` of a file or of standard input."""
    import numpy as np

    from hf_speechft.data.audio import stream_audio

    if source != STDIN:
        yield from stream_audio(source, rate_hz, piece_ms / 1000)
        return
    pcm = typer.get_binary_stream("stdin")
    with _told_by_interrupt() as is_over:
        while not is_over.is_set() and (data := pcm.read(PCM_BYTES * round(piece_ms / 1000 * rate_hz))):
            yield np.frombuffer(data[: len(data) // PCM_BYTES * PCM_BYTES], "<i2")


@contextmanager
def _told_by_interrupt() -> Iterator[threading.Event]:
    """Take Ctrl-C, which ends a microphone's pipe, as the end of the sound too; a second one ends the program."""
    is_over = threading.Event()

    def note(number: int, frame: object) -> None:
        is_over.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield is_over
    finally:
        signal.signal(signal.SIGINT, before)
