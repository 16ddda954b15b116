"""`hf-speechft transcribe`: audio files of any format and length to text on stdout, one line a problem on stderr."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_speechft.decoding import Transcript
    from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
    from hf_speechft.model.processing_speechbert import SpeechBertProcessor

DEFAULT_MODEL = Path("runs/demo")  # where the default recipe writes
HOW_TO_TRAIN = "train one with `accelerate launch run_finetune.py`, or name a model with --model DIR_OR_ID"
BLOCK_S = 10.0  # audio between two moves of the progress bar
BAR_FROM_S = 60.0  # shorter recordings are done before a bar would be read


class ModelError(ValueError):
    """A model that cannot be loaded: missing, incomplete, or no SpeechBERT."""


def transcribe(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Audio: wav, flac, mp3, ogg, opus, m4a or webm.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_ID", help="Folder or Hub id of a SpeechBERT model. Default: runs/demo."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a file: file, text, words with times, duration_s.")
    ] = False,
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
    others are transcribed, and the exit code is 1.
    """
    try:
        loaded = load_model(model, device)
        _check_chunk(*loaded, chunk_s)
    except ValueError as error:
        _complain(error)
        raise typer.Exit(1) from None
    failures = 0
    for file in files:
        try:
            transcript = _transcribe_file(file, *loaded, chunk_s, batch_size)
        except (ValueError, OSError) as error:
            failures += 1
            _complain(str(error) if file in str(error) else f"{file}: {error}")
            continue
        typer.echo(_json_line(file, transcript) if as_json else _text_line(file, transcript, len(files) > 1))
    if failures:
        raise typer.Exit(1)


def load_model(
    name_or_path: str | None = None, device: str | None = None
) -> "tuple[SpeechBertForCTC, SpeechBertProcessor]":
    """Load a SpeechBERT model and its processor with hf_speechft's own classes; no code of a repository is run.

    Args:
        name_or_path: Folder or Hub id; `None` for the folder that the default recipe writes to.
        device: Where to compute; `None` for an accelerator if there is one.

    Returns:
        The model in evaluation mode, and the processor.

    Raises:
        ModelError: Nothing is there, it is no SpeechBERT model, parts are missing, or the device is not usable.
    """
    name = _resolve_model(name_or_path)
    with _quiet_transformers():
        from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
        from hf_speechft.model.processing_speechbert import SpeechBertProcessor

        _check_model_type(name)
        target = _pick_device(device)
        try:
            model, report = SpeechBertForCTC.from_pretrained(name, output_loading_info=True)
            processor = SpeechBertProcessor.from_pretrained(name, trust_remote_code=False)
        except Exception as error:  # safetensors, tokenizers and JSON each raise their own kinds
            raise ModelError(f"{name} cannot be loaded, it is incomplete or damaged: {_first_line(error)}") from error
        missing = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
        if missing:
            raise ModelError(f"{name} lacks {len(missing)} weights of its model, such as {missing[0]}; save it again")
        try:
            return model.to(target), processor
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
            raise ModelError(f"device {target} is not usable here: {_first_line(error)}") from error


def _resolve_model(name_or_path: str | None) -> str:
    if name_or_path is None:
        if not (DEFAULT_MODEL / "config.json").is_file():
            raise ModelError(f"there is no model in {DEFAULT_MODEL} yet; {HOW_TO_TRAIN}")
        return str(DEFAULT_MODEL)
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{name_or_path} is a folder without a model (no config.json in it); {HOW_TO_TRAIN}")
        return str(folder)
    if folder.exists():
        raise ModelError(f"{name_or_path} is a file; --model takes a model's folder or its id on the Hub")
    if folder.is_absolute() or name_or_path.startswith(("./", "../", "~")) or name_or_path.count("/") > 1:
        raise ModelError(f"{name_or_path} does not exist; {HOW_TO_TRAIN}")
    return name_or_path


def _check_model_type(name: str) -> None:
    """Read config.json before anything else, because only it tells whose weights these are."""
    from transformers import PreTrainedConfig

    try:
        config, _ = PreTrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise ModelError(f"{name}/config.json cannot be read: {_first_line(error)}") from error
        raise ModelError(
            f"{name} is neither a folder nor a model that the Hub gives out; check the name, the network and, for a "
            f"private model, `hf auth login` ({_first_line(error)})"
        ) from error
    model_type = config.get("model_type", "unknown")
    if model_type != "speechbert":
        raise ModelError(f"{name} is a model of type {model_type}, not a SpeechBERT model; {HOW_TO_TRAIN}")


def _pick_device(device: str | None) -> "torch.device":
    import torch

    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"device {device!r} is unknown; use cpu, cuda, cuda:1 or mps") from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep the loading bar and advice for developers off the terminal; bars of downloads stay where there is one."""
    from huggingface_hub.utils import enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    has_bar = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()  # it reports each of its attempts to reach the Hub
    logging.disable_progress_bar()
    if sys.stderr.isatty():
        enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _check_chunk(model: "SpeechBertForCTC", processor: "SpeechBertProcessor", chunk_s: float | None) -> None:
    """Refuse a chunk that doesn't fit the model once, and not for each file."""
    from hf_speechft.decoding.longform import plan_chunks

    plan_chunks(model, processor, chunk_s)


def _transcribe_file(
    file: str, model: "SpeechBertForCTC", processor: "SpeechBertProcessor", chunk_s: float | None, batch_size: int
) -> "Transcript":
    from hf_speechft.data.audio import stream_audio
    from hf_speechft.decoding import transcribe as transcribe_blocks

    rate_hz = processor.feature_extractor.sampling_rate
    blocks = _with_progress(stream_audio(file, rate_hz, BLOCK_S), file, rate_hz)
    return transcribe_blocks(blocks, model, processor, chunk_s=chunk_s, batch_size=batch_size)


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


def _text_line(file: str, transcript: "Transcript", is_one_of_several: bool) -> str:
    return f"{file}: {transcript.text}" if is_one_of_several else transcript.text


def _json_line(file: str, transcript: "Transcript") -> str:
    words = [
        {"text": word.text, "start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3)}
        for word in transcript.words
    ]
    line = {"file": file, "text": transcript.text, "words": words, "duration_s": round(transcript.duration_s, 3)}
    return json.dumps(line, ensure_ascii=False)


def _complain(message: object) -> None:
    typer.echo(f"hf-speechft: {message}", err=True)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
