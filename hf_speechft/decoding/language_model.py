"""Language models of the Hub: which kind a checkpoint is, and loading it with its head and tokenizer.

Checkpoints that were saved without their language-model head are refused, since transformers would give them one with
random weights, and its scores would be noise.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["NoLanguageModelHead", "language_model_kind", "load_language_model"]


class NoLanguageModelHead(ValueError):  # noqa: N818
    """A checkpoint cannot score text, since it has no language-model head."""


def load_language_model(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load a causal or masked language model, after its configuration, and its tokenizer.

    Args:
        name_or_path: Hub id or folder of a checkpoint.
        device: Where the model computes; by default an accelerator if there is one.
        dtype: Type of its weights; by default float32, `"auto"` for the checkpoint's own.
        revision: Branch, tag or commit of the checkpoint.
        token: Access token of the Hub, or whether to use the stored one.

    Returns:
        The model, in evaluation mode, and its tokenizer.

    Raises:
        NoLanguageModelHead: The checkpoint is of another kind, or lacks weights that a language model needs.
    """
    hub_options = {"revision": revision, "token": token}
    config = AutoConfig.from_pretrained(name_or_path, **hub_options)
    auto_class = AutoModelForCausalLM if language_model_kind(config) == "causal" else AutoModelForMaskedLM
    model, info = auto_class.from_pretrained(
        name_or_path, config=config, dtype=dtype or torch.float32, output_loading_info=True, **hub_options
    )
    missing = sorted(info["missing_keys"])  # tied weights are not among them
    if missing:
        raise NoLanguageModelHead(
            f"{name_or_path} cannot score text: {type(model).__name__} needs {len(missing)} weights that it lacks, "
            f"such as {missing[0]}; name a checkpoint that was saved with its language-model head"
        )
    if device is None:
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    return model.to(device).eval(), AutoTokenizer.from_pretrained(name_or_path, **hub_options)


def language_model_kind(config: "PreTrainedConfig") -> str:
    """Tell what kind of language model a text checkpoint is.

    Args:
        config: Its configuration.

    Returns:
        `causal` or `masked`.

    Raises:
        NoLanguageModelHead: It is neither, as encoder-decoders and models of other modalities are.
    """
    is_causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    is_masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if not config.is_encoder_decoder:
        if is_causal and (getattr(config, "is_decoder", False) or not is_masked):
            return "causal"
        if is_masked:
            return "masked"
    raise NoLanguageModelHead(
        f"a model of type {config.model_type!r} is neither a causal nor a masked language model; take one such as "
        "GPT-2, Llama, BERT or RoBERTa"
    )
