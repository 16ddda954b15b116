"""The text transformer of a SpeechBERT model: which checkpoints can be one, and what is taken away from it."""

import inspect
import logging

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_speechbert import SpeechBertConfig, family_attention

logger = logging.getLogger(__name__)

BOTH = ("bidirectional", "causal")
# The directions that attention can take in each family, by `model_type`. tests/model/test_text_families.py runs them.
FAMILIES = {
    "bert": BOTH,
    "roberta": BOTH,
    "xlm-roberta": BOTH,
    "camembert": BOTH,
    "electra": BOTH,
    "distilbert": ("bidirectional",),
    "albert": ("bidirectional",),
    "deberta": ("bidirectional",),
    "deberta-v2": ("bidirectional",),
    "mpnet": ("bidirectional",),
    "modernbert": ("bidirectional",),
    "t5": ("bidirectional",),
    "mt5": ("bidirectional",),
    "bart": ("bidirectional",),
    "mbart": ("bidirectional",),
    "gpt2": BOTH,
    "gpt_neo": ("causal",),  # its layers hold a triangular mask of their own
    "gpt_neox": BOTH,
    "opt": BOTH,
    "bloom": ("causal",),  # its ALiBi grows with the key's position: looking ahead, the last step would win always
    "llama": BOTH,
    "mistral": BOTH,
    "qwen2": BOTH,
    "qwen3": BOTH,
    "gemma": BOTH,
    "smollm3": BOTH,
}
# Causal families that transformers gives no true positions where they take an utterance in pieces.
NOT_STREAMED = ("roberta", "xlm-roberta", "camembert")
ENCODERS = ("t5", "mt5", "bart", "mbart")  # encoder-decoders that lend their encoder
NEEDED = (
    "a text encoder or decoder that takes inputs_embeds and attention_mask is needed, such as BERT, RoBERTa or GPT-2, "
    f"or an encoder-decoder that lends its encoder ({', '.join(ENCODERS)})"
)
TEXT_PARAMETERS = {"input_ids", "inputs_embeds", "attention_mask"}
OTHER_SENSES = ("pixel_values", "input_features", "input_values", "audio_values", "bbox")

# Names that text configurations have for the dropout probabilities of their layers.
DROPOUT_FIELDS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
DROPOUT_FIELDS += ("resid_pdrop", "embd_pdrop", "attn_pdrop", "embedding_dropout", "mlp_dropout", "hidden_dropout")
DROPOUT_FIELDS += ("dropout_rate", "embed_dropout", "resid_dropout", "activation_dropout")
ATTENTION_DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
POSITION_EMBEDDINGS = ("position_embeddings", "wpe", "embed_positions")


def check_text_model(config: PreTrainedConfig, name_or_path: str) -> None:
    """Refuse a checkpoint that an audio front-end cannot drive.

    Raises:
        ValueError: Saying what the checkpoint is and what is needed.
    """
    if config.is_encoder_decoder and config.model_type not in ENCODERS:
        raise ValueError(f"{name_or_path} is an encoder-decoder ({config.model_type}); {NEEDED}")
    try:
        model_class = AutoModel._model_mapping[type(config)]
    except KeyError:
        raise ValueError(f"{name_or_path} ({config.model_type}) has no base model in transformers; {NEEDED}") from None
    model_class = model_class[0] if isinstance(model_class, (list, tuple)) else model_class
    parameters = inspect.signature(model_class.forward).parameters
    if not parameters.keys() >= TEXT_PARAMETERS or any(name in parameters for name in OTHER_SENSES):
        raise ValueError(f"{name_or_path} is a {model_class.__name__}, which takes {', '.join(parameters)}; {NEEDED}")
    if config.model_type not in FAMILIES:
        logger.warning(
            "%s is of the family %s, which nobody has tested as a speech model; check that an utterance gives the "
            "same logits alone and in a padded batch",
            name_or_path,
            config.model_type,
        )


def check_attention(config: SpeechBertConfig) -> None:
    """Refuse a direction of attention that the text model would silently not take.

    Raises:
        ValueError: Naming the directions that there are.
    """
    family = config.backbone_config.model_type
    possible = FAMILIES.get(family, (family_attention(family),))
    if config.attention not in possible:
        reason = "" if family in FAMILIES else "; no other was tested for this family"
        raise ValueError(
            f"attention is {config.attention!r}; {family} can only be {' or '.join(possible)}{reason}. Leave "
            "attention out, or take a family of the other direction, such as bert or llama, which can be both"
        )


def check_streaming(config: SpeechBertConfig) -> None:
    """Refuse a model that cannot take an utterance in pieces.

    Raises:
        ValueError: Saying why, and what to train with.
    """
    family = config.backbone_config.model_type
    if config.attention != "causal":
        raise ValueError(
            f"this model's attention is {config.attention}: each step hears the whole utterance, so it cannot stream. "
            "Train one with --attention causal --normalize running, from a text checkpoint such as GPT-2 or SmolLM2"
        )
    if family in NOT_STREAMED or family not in FAMILIES:
        streamed = [name for name, ways in FAMILIES.items() if "causal" in ways and name not in NOT_STREAMED]
        raise ValueError(f"{family} cannot stream; train from a checkpoint of {', '.join(streamed)}")


def set_body_dropout(text_config: PreTrainedConfig, probability: float) -> None:
    """Set all dropout probabilities of a text checkpoint's configuration, whatever they are called there."""
    for name in DROPOUT_FIELDS:
        if hasattr(text_config, name):
            setattr(text_config, name, probability)


def set_attention_dropout(text_config: PreTrainedConfig, probability: float) -> None:
    """Set the dropout probability of attention's weights; T5 has none of its own and keeps its only one."""
    for name in ATTENTION_DROPOUT_FIELDS:
        if hasattr(text_config, name):
            setattr(text_config, name, probability)


def build_backbone(config: SpeechBertConfig) -> PreTrainedModel:
    """Make the text transformer with new weights, with as many positions as `config.max_positions` asks for.

    `config.backbone_config` is brought to that number of positions too, so that a saved model loads again.

    Raises:
        ValueError: The family cannot take the direction of attention or the number of positions.
    """
    check_attention(config)
    backbone = _from_config(config.backbone_config)
    limit = position_limit(backbone)
    check_max_positions(config, limit)
    check_position_shift(config, backbone)
    if config.max_positions is not None and config.max_positions > limit:
        text_config = config.backbone_config
        if getattr(text_config, "max_relative_positions", 1) < 1:  # DeBERTa's relative positions stay as many
            text_config.max_relative_positions = text_config.max_position_embeddings
        text_config.max_position_embeddings += config.max_positions - limit
        backbone = _from_config(text_config)
    return adapt_backbone(backbone, config)


def load_backbone(config: SpeechBertConfig, name_or_path: str, **options: object) -> PreTrainedModel:
    """Load the text transformer with its word embeddings; of an encoder-decoder, the encoder.

    Args:
        config: The speech model's configuration.
        name_or_path: Hub id or folder of the text checkpoint.
        **options: Arguments of `AutoModel.from_pretrained`.

    Raises:
        ValueError: As `build_backbone`.
    """
    check_attention(config)
    text_model = AutoModel.from_pretrained(name_or_path, config=config.backbone_config, **options)
    backbone = text_model.get_encoder() if config.backbone_config.is_encoder_decoder else text_model
    check_max_positions(config, position_limit(backbone))
    return backbone


def check_max_positions(config: SpeechBertConfig, limit: int | None) -> None:
    """Refuse a number of positions that the text model cannot be stretched to.

    Args:
        config: The speech model's configuration.
        limit: Steps that the text model's learned positions reach, `None` where positions are computed.

    Raises:
        ValueError: Saying how many it has.
    """
    wanted, family = config.max_positions, config.backbone_config.model_type
    if wanted is not None and limit is None:
        raise ValueError(
            f"max_positions is {wanted}; this {family} computes its positions and has no limit. Leave "
            "max_positions out"
        )
    if wanted is not None and wanted < limit:
        raise ValueError(
            f"max_positions is {wanted}; this {family} has {limit} learned positions, which can only be stretched. "
            f"Give more than {limit}, or leave max_positions out"
        )


def check_position_shift(config: SpeechBertConfig, backbone: PreTrainedModel) -> None:
    """Refuse to shift the positions of a text model that has no learned ones, or takes none from outside.

    Raises:
        ValueError: Saying so.
    """
    if config.position_shift and first_position_id(backbone) is None:
        reason = "computes its positions" if find_positions(backbone) is None else "counts its positions by itself"
        raise ValueError(
            f"position_shift is {config.position_shift}; this {config.backbone_config.model_type} {reason}. Leave "
            "position_shift at 0"
        )


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


def layer_classes(backbone: PreTrainedModel) -> set[str]:
    """Names of the classes of a backbone's layers: what its first list of modules holds, in every family."""
    lists = (module for module in backbone.modules() if isinstance(module, nn.ModuleList))
    return {type(layer).__name__ for layer in next(lists, ())}


def position_limit(backbone: PreTrainedModel) -> int | None:
    """Steps that learned position embeddings reach, or `None` where positions are computed."""
    found = find_positions(backbone)
    return None if found is None else backbone.get_parameter(found[0]).shape[0] - found[1]


def find_positions(backbone: PreTrainedModel) -> tuple[str, int] | None:
    """Name of the table of learned positions, and how many of its first rows stand for no step; `None` without one."""
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in POSITION_EMBEDDINGS and isinstance(module, nn.Embedding):
            counted = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from there
            return f"{name}.weight", getattr(module, "offset", counted)  # OPT and BART say it
    return None


def first_position_id(backbone: PreTrainedModel) -> int | None:
    """Position id of an utterance's first step; `None` without learned positions, or where it takes no ids of them."""
    found = find_positions(backbone)
    if found is None or "position_ids" not in inspect.signature(backbone.forward).parameters:
        return None
    name, reserved = found
    table = backbone.get_submodule(name.removesuffix(".weight"))
    return 0 if hasattr(table, "offset") else reserved  # OPT adds it by itself


@torch.no_grad()
def load_stretched(backbone: PreTrainedModel, loaded: PreTrainedModel) -> PreTrainedModel:
    """Give a transformer with more positions the weights of one with fewer, its positions interpolated linearly.

    The first and the last position stay what they are; rows that stand for no step are copied.

    Args:
        backbone: Of `build_backbone`.
        loaded: Of `load_backbone`, adapted.

    Returns:
        `backbone`, with the weights.
    """
    (name, reserved), weights = find_positions(loaded), loaded.state_dict()
    old, new_rows = weights[name], backbone.get_parameter(name).shape[0]
    columns = old[reserved:].float().T[None]  # (1, hidden, positions)
    new = nn.functional.interpolate(columns, size=new_rows - reserved, mode="linear", align_corners=True)
    weights[name] = torch.cat([old[:reserved], new[0].T.to(old.dtype)])
    backbone.load_state_dict(weights)
    logger.warning(
        "learned positions stretched from %d to %d by linear interpolation; they fit only after fine-tuning",
        len(old) - reserved,
        new_rows - reserved,
    )
    return backbone


@torch.no_grad()
def word_vectors(backbone: PreTrainedModel) -> torch.Tensor:
    """Word embeddings as the layers behind them get them, `(text vocab, hidden)`.

    Gemma and some BARTs scale them on the way, which they do not do to `inputs_embeds`.
    """
    embeddings = backbone.get_input_embeddings()
    return embeddings(torch.arange(embeddings.num_embeddings, device=embeddings.weight.device))


@torch.no_grad()
def copy_embedding_rows(head: nn.Linear, embeddings: torch.Tensor, checkpoint_ids: list[int]) -> None:
    """Start the head's rows from the word embeddings of the same tokens; rows without one stay as they are.

    The rows are centred and scaled to the standard deviation of the head's own initial weights, so that the first
    logits are as small as without them.

    Args:
        head: Linear layer from `hidden` to `vocab`.
        embeddings: The checkpoint's word embeddings, `(text vocab, hidden)`; others than the head's width are not
            used, as in ALBERT.
        checkpoint_ids: For each unit the row in `embeddings`, -1 for none.
    """
    if embeddings.shape[1] != head.in_features:
        logger.warning(
            "word embeddings are %d wide and the transformer's output %d: the head starts untrained",
            embeddings.shape[1],
            head.in_features,
        )
        return
    rows = torch.tensor(checkpoint_ids, device=embeddings.device)
    known = rows >= 0
    centred = embeddings[rows[known]].float() - embeddings.float().mean(dim=0)
    head.weight[known] = (centred * (head.weight.float().std() / centred.std())).to(head.weight.dtype)


def _from_config(text_config: PreTrainedConfig) -> PreTrainedModel:
    # In the type that is being loaded into, as front-end and head are, and not in that of the checkpoint's own files.
    text_model = AutoModel.from_config(text_config, dtype=torch.get_default_dtype())
    return text_model.get_encoder() if text_config.is_encoder_decoder else text_model
