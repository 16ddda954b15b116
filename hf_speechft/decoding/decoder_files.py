"""A decoder in a folder: `decoder_config.json` with its settings, and `lm.safetensors` with its n-gram model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from .ngram import NGramLM

if TYPE_CHECKING:
    import torch

    from .decoder import CTCDecoder

__all__ = ["DECODER_FOLDER", "load_decoder", "read_settings", "save_decoder"]

DECODER_FOLDER = "decoder"  # beside a model's files
CONFIG_FILE, LM_FILE = "decoder_config.json", "lm.safetensors"
SETTINGS = (
    "tokens",
    "blank_id",
    "lm_weight",
    "word_bonus",
    "unknown_word_score",
    "hotwords",
    "phrases",
    "beam_width",
    "token_min_logp",
    "beam_prune_logp",
)
RESCORING_SETTINGS = ("weight", "word_bonus", "nbest")


def save_decoder(decoder: "CTCDecoder", folder: str | Path) -> None:
    """Write a decoder; language models of the Hub are named and not copied, and are loaded in their default precision.

    Args:
        decoder: The decoder.
        folder: Made if it does not exist.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: getattr(decoder, name) for name in SETTINGS}
    if isinstance(decoder.lm, NGramLM):
        decoder.lm.save(folder / LM_FILE)
        config["lm"] = LM_FILE
    else:
        (folder / LM_FILE).unlink(missing_ok=True)
        config["lm"] = None if decoder.lm is None else {"causal_lm": _address(decoder.lm.name_or_path)}
    config["rescoring"] = None
    if decoder.rescoring is not None:
        model = _address(decoder.rescoring.scorer.name_or_path)
        config["rescoring"] = {"model": model} | {
            name: getattr(decoder.rescoring, name) for name in RESCORING_SETTINGS
        }
    for name in ("hotwords", "phrases"):
        if config[name] is not None and not isinstance(config[name], (str, dict)):
            config[name] = list(config[name])
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def read_settings(folder: str | Path) -> dict[str, object]:
    """Read the settings of a decoder, without its language models.

    Args:
        folder: Written by `save_decoder`.

    Returns:
        Arguments of `CTCDecoder`, but for `lm` and `rescoring`, which are as `decoder_config.json` names them.

    Raises:
        ValueError: The file is missing or damaged.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no decoder: there is no {CONFIG_FILE}; write one with save_pretrained")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); save the decoder again") from error
    unknown = set(config) ^ {*SETTINGS, "lm", "rescoring"}
    if unknown:
        raise ValueError(f"{path} has or lacks the settings {', '.join(sorted(unknown))}; save the decoder again")
    return config


def load_decoder(folder: str | Path, device: "str | torch.device | None" = None) -> dict[str, object]:
    """Read the arguments of a decoder.

    Args:
        folder: Written by `save_decoder`.
        device: Where its language models of the Hub compute; `None` for an accelerator if there is one.

    Returns:
        Arguments of `CTCDecoder`.

    Raises:
        ValueError: A file is missing or damaged.
    """
    config, path = read_settings(folder), Path(folder) / CONFIG_FILE
    if config["lm"] == LM_FILE:
        if not path.with_name(LM_FILE).is_file():
            raise ValueError(
                f"{folder} lacks {LM_FILE}, the language model that {CONFIG_FILE} names; copy it there too"
            )
        config["lm"] = NGramLM.load(path.with_name(LM_FILE))
    elif config["lm"] is not None:
        from .rescoring import CausalWordScorer

        config["lm"] = CausalWordScorer.from_pretrained(config["lm"]["causal_lm"], device=device)
    if config["rescoring"] is not None:
        from .rescoring import Rescoring, SentenceScorer

        unknown = set(config["rescoring"]) ^ {"model", *RESCORING_SETTINGS}
        if unknown:
            raise ValueError(f"{path}: rescoring has or lacks {', '.join(sorted(unknown))}; save the decoder again")
        scorer = SentenceScorer.from_pretrained(config["rescoring"].pop("model"), device=device)
        config["rescoring"] = Rescoring(scorer, **config["rescoring"])
    return config


def _address(name_or_path: str) -> str:
    """A Hub id as it is, and a folder so that it is found from everywhere on this machine."""
    return str(Path(name_or_path).resolve()) if Path(name_or_path).is_dir() else name_or_path
