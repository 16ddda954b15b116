"""The text transformer of a SpeechBERT model: which checkpoints can be one, and what is taken away from it."""

import inspect

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_speechbert import SpeechBertConfig

# Names that text configurations have for the dropout probabilities of their layers.
DROPOUT_FIELDS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
DROPOUT_FIELDS += ("resid_pdrop", "embd_pdrop", "attn_pdrop", "embedding_dropout", "mlp_dropout", "hidden_dropout")
POSITION_EMBEDDINGS = ("position_embeddings", "wpe", "embed_positions")


def check_text_model(config: PreTrainedConfig, name_or_path: str) -> None:
    """Refuse a checkpoint that an audio front-end cannot drive.

    Raises:
        ValueError: Saying what the checkpoint is and what is needed.
    """
    needed = "a text encoder or decoder that takes inputs_embeds is needed, such as BERT, RoBERTa or GPT-2"
    if config.is_encoder_decoder:
        raise ValueError(f"{name_or_path} is an encoder-decoder ({config.model_type}); {needed}")
    try:
        model_class = AutoModel._model_mapping[type(config)]
    except KeyError:
        raise ValueError(f"{name_or_path} ({config.model_type}) has no base model in transformers; {needed}") from None
    model_class = model_class[0] if isinstance(model_class, (list, tuple)) else model_class
    parameters = inspect.signature(model_class.forward).parameters
    if "inputs_embeds" not in parameters or "input_ids" not in parameters:
        raise ValueError(f"{name_or_path} is a {model_class.__name__}, which takes {', '.join(parameters)}; {needed}")


def set_body_dropout(text_config: PreTrainedConfig, probability: float) -> None:
    """Set all dropout probabilities of a text checkpoint's configuration, whatever they are called there."""
    for name in DROPOUT_FIELDS:
        if hasattr(text_config, name):
            setattr(text_config, name, probability)


def adapt_backbone(backbone: PreTrainedModel, config: SpeechBertConfig) -> PreTrainedModel:
    """Take away what a speech model does not use: word embeddings and pooler; apply the attention's direction."""
    backbone.set_input_embeddings(nn.Identity())
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    if config.attention == "bidirectional":
        for module in backbone.modules():
            if getattr(module, "is_causal", False):  # SDPA reads it where no mask is passed
                module.is_causal = False
    return backbone


def position_limit(backbone: PreTrainedModel) -> int | None:
    """Steps that learned position embeddings reach, or `None` where positions are computed."""
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in POSITION_EMBEDDINGS and isinstance(module, nn.Embedding):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from there
            return module.num_embeddings - reserved
    return None


@torch.no_grad()
def copy_embedding_rows(head: nn.Linear, embeddings: torch.Tensor, checkpoint_ids: list[int]) -> None:
    """Start the head's rows from the word embeddings of the same tokens; rows without one stay as they are.

    The rows are centred and scaled to the standard deviation of the head's own initial weights, so that the first
    logits are as small as without them.

    Args:
        head: Linear layer from `hidden` to `vocab`.
        embeddings: The checkpoint's word embeddings, `(text vocab, hidden)`.
        checkpoint_ids: For each unit the row in `embeddings`, -1 for none.
    """
    rows = torch.tensor(checkpoint_ids, device=embeddings.device)
    known = rows >= 0
    centred = embeddings[rows[known]].float() - embeddings.float().mean(dim=0)
    head.weight[known] = (centred * (head.weight.float().std() / centred.std())).to(head.weight.dtype)
