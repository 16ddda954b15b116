"""What the command line recognises with: a SpeechBERT model, its processor, and a decoder for beam search."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hf_speechft.decoding import CTCDecoder
    from hf_speechft.model.configuration_speechbert import SpeechBertConfig
    from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
    from hf_speechft.model.processing_speechbert import SpeechBertProcessor

DEFAULT_MODEL = Path("runs/demo")  # where the default recipe writes
HOW_TO_TRAIN = "train one with `accelerate launch run_finetune.py`, or name a model with --model DIR_OR_ID"


class ModelError(ValueError):
    """A model that cannot be loaded: missing, incomplete, or no SpeechBERT."""


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


def load_processor(name_or_path: str) -> "tuple[SpeechBertConfig, SpeechBertProcessor]":
    """Load the configuration and the processor of a SpeechBERT model, without its weights.

    Args:
        name_or_path: Folder or Hub id.

    Returns:
        Both.

    Raises:
        ModelError: Nothing is there, it is no SpeechBERT model, or parts are missing.
    """
    name = _resolve_model(name_or_path)
    with _quiet_transformers():
        from hf_speechft.model.configuration_speechbert import SpeechBertConfig
        from hf_speechft.model.processing_speechbert import SpeechBertProcessor

        _check_model_type(name)
        try:
            config = SpeechBertConfig.from_pretrained(name)
            return config, SpeechBertProcessor.from_pretrained(name, trust_remote_code=False)
        except Exception as error:  # tokenizers and JSON each raise their own kinds
            raise ModelError(f"{name} cannot be loaded, it is incomplete or damaged: {_first_line(error)}") from error


def load_decoder(
    model: "SpeechBertForCTC",
    processor: "SpeechBertProcessor",
    *,
    beams: int | None = None,
    hotwords: Mapping[str, float] | None = None,
    phrases: Sequence[str] | str | None = None,
) -> "CTCDecoder | None":
    """Load the decoder that was saved beside a model, or make one for what is asked.

    Hot words and sentences go through the model's text normaliser; a grammar is taken as it is.

    Args:
        model: As `load_model` gives it.
        processor: The same.
        beams: Width of the beam. 1, without the other two, is greedy decoding, whatever is saved.
        hotwords: Phrases to listen for and their weights, in place of those that were saved.
        phrases: Sentences or the text of a JSGF grammar, in place of what was saved.

    Returns:
        The decoder; `None` where greedy decoding is asked for, or nothing is asked for and nothing saved.

    Raises:
        ModelError: The saved decoder cannot be read, or is for another vocabulary.
        ValueError: A hot word or phrase cannot be written with the model's tokens.
    """
    if beams == 1 and not hotwords and phrases is None:
        return None
    from hf_speechft.data.text import normalize_text
    from hf_speechft.decoding import CTCDecoder
    from hf_speechft.decoding.pipeline import find_decoder

    def written(text: str) -> str:
        return normalize_text(text, processor.tokenizer.text_normalizer) or text

    options = {"beam_width": beams, "hotwords": None, "phrases": phrases}
    if hotwords:
        options["hotwords"] = {written(phrase): weight for phrase, weight in hotwords.items()}
        if len(options["hotwords"]) < len(hotwords):
            raise ValueError(
                f"of the hot words {', '.join(hotwords)} some are the same once the model's text normaliser "
                f"({processor.tokenizer.text_normalizer}) has written them; give each once"
            )
    if phrases is not None and not isinstance(phrases, str):
        options["phrases"] = [written(phrase) for phrase in phrases]
    options = {name: value for name, value in options.items() if value is not None}
    with _quiet_transformers():
        folder = find_decoder(model)
        if folder is not None:
            saved = _read_decoder(folder, len(processor.tokenizer), model.device)
            return CTCDecoder(**saved | options)
    return CTCDecoder.from_processor(processor, **options) if options else None


def _read_decoder(folder: Path, tokens: int, device: "torch.device") -> dict[str, object]:
    """Arguments of the decoder in a folder; it has to have as many tokens as the model."""
    from hf_speechft.decoding.decoder_files import load_decoder as read_arguments

    remedy = "save it again, or decode without it: --beams 1"
    try:
        saved = read_arguments(folder, device)
    except Exception as error:  # JSON, safetensors and language models of the Hub each raise their own kinds
        raise ModelError(f"the decoder in {folder} cannot be loaded: {_first_line(error)}; {remedy}") from error
    if len(saved["tokens"]) != tokens:
        raise ModelError(
            f"the decoder in {folder} is for {len(saved['tokens'])} tokens and the model has {tokens}; {remedy}"
        )
    return saved


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


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
