"""SpeechBertConfig: everything that `config.json` says about a SpeechBERT model.

A SpeechBERT model is a text checkpoint whose word embeddings gave way to an audio front-end, with a CTC head on top.
The text checkpoint's own configuration stays whole in `backbone_config`; the fields here describe what was added.
"""

import copy
import math
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

ATTENTION = ("bidirectional", "causal")
SUBSAMPLING = (2, 4, 8)
ADAPTER_LAYERS = (0, 1, 2, 3, 4)


class SpeechBertConfig(PreTrainedConfig):
    r"""Configuration of `SpeechBertModel` and `SpeechBertForCTC`.

    Args:
        backbone_config: The text checkpoint's configuration, or its dictionary. Defaults to BERT's.
        vocab_size: Number of output units, the CTC blank included.
        pad_token_id: Id of the CTC blank.
        num_mel_bins: Features per frame that the front-end takes.
        sampling_rate: Rate of the audio in Hz.
        hop_length: Samples from one feature frame to the next.
        frontend: Name of the front-end that stands in for the word embeddings: `conv1d`, `conv2d`, `rnn` or `stack`.
        adapter_layers: Conformer layers between the front-end and the text checkpoint, 0 to 4.
        subsampling: Frames per step of the transformer: 2, 4 or 8.
        attention: `bidirectional`, `causal`, or `None` for what the text checkpoint itself does.
        lookahead_ms: Milliseconds of what follows that a step of a causal model hears, a whole number of steps; text
            can be written so much later than it was said.
        max_positions: Steps that learned positions are stretched to by linear interpolation; `None` for the
            checkpoint's own.
        position_shift: In training, learned positions count from a random number of steps up to this, another one for
            each utterance (SHAPE, arXiv:2109.05644), so that a sound is known again at another time.
        frontend_dropout: Dropout probability inside the front-end.
        head_dropout: Dropout probability before the CTC head.
        initializer_range: Standard deviation that new weights are drawn with.
        frequency_warp: Largest share by which training multiplies the frequencies of an utterance, up or down, as
            another vocal tract would; `apply_spec_augment` switches it off too.
        apply_spec_augment: Whether to mask input features in training (SpecAugment, arXiv:1904.08779).
        mask_time_prob: Share of an utterance's frames that the time masks cover, overlaps counted twice.
        mask_time_length: Frames that one time mask covers.
        mask_time_min_masks: Least number of time masks for each utterance.
        mask_feature_prob: Share of the mel bins that the feature masks cover, overlaps counted twice.
        mask_feature_length: Mel bins that one feature mask covers.
        mask_feature_min_masks: Least number of feature masks for each utterance.
        intermediate_ctc_weight: Share of the loss that the CTC loss of the middle layer has (arXiv:2102.03216).
        consistency_weight: Weight of the difference between two views of each utterance under masks of their own,
            for which training computes everything twice (CR-CTC, arXiv:2410.05101).
        ctc_loss_reduction: `mean` (each utterance's loss over its number of tokens, then the batch's mean) or `sum`.

    Raises:
        ValueError: A field has a value that no front-end, mask or loss takes.

    >>> from transformers import BertConfig
    >>> config = SpeechBertConfig(backbone_config=BertConfig(hidden_size=48, num_attention_heads=4), subsampling=4)
    >>> config.hidden_size, config.inputs_to_logits_ratio
    (48, 640)
    """

    model_type = "speechbert"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    vocab_size: int = 32
    pad_token_id: int | None = 0
    num_mel_bins: int = 80
    sampling_rate: int = 16_000
    hop_length: int = 160
    frontend: str = "conv1d"
    adapter_layers: int = 0
    subsampling: int = 4
    attention: str | None = None
    lookahead_ms: int = 0
    max_positions: int | None = None
    position_shift: int = 0
    frontend_dropout: float = 0.1
    head_dropout: float = 0.1
    initializer_range: float = 0.02
    frequency_warp: float = 0.0
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.1
    mask_time_length: int = 20
    mask_time_min_masks: int = 0
    mask_feature_prob: float = 0.2
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    intermediate_ctc_weight: float = 0.0
    consistency_weight: float = 0.0
    ctc_loss_reduction: str = "mean"

    def __post_init__(self, **kwargs: object) -> None:
        """Resolve the text checkpoint's configuration and check the fields."""
        if self.backbone_config is None:
            self.backbone_config = CONFIG_MAPPING["bert"]()
        elif isinstance(self.backbone_config, dict):
            self.backbone_config = _text_config(self.backbone_config)
        else:
            self.backbone_config = copy.deepcopy(self.backbone_config)  # the caller's stays as it is
        super().__post_init__(**kwargs)
        _require("subsampling", self.subsampling, SUBSAMPLING)
        _require("adapter_layers", self.adapter_layers, ADAPTER_LAYERS)
        _require("attention", self.attention, (None, *ATTENTION))
        _require("ctc_loss_reduction", self.ctc_loss_reduction, ("mean", "sum"))
        for name in ("mask_time_length", "mask_feature_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it needs to be 1 or more")
        if not 0 <= self.frequency_warp < 1:
            raise ValueError(f"frequency_warp is {self.frequency_warp}; it needs to be a share from 0 to below 1")
        if self.position_shift < 0:
            raise ValueError(f"position_shift is {self.position_shift}; it needs to be 0 or more steps")
        if not 0 <= self.intermediate_ctc_weight < 1:
            raise ValueError(
                f"intermediate_ctc_weight is {self.intermediate_ctc_weight}; it needs to be a share from 0 to below 1"
            )
        if self.intermediate_ctc_weight and self.output_size != self.hidden_size:
            raise ValueError(
                f"intermediate_ctc_weight needs layers as wide as the output; this {self.backbone_config.model_type} "
                f"has {self.hidden_size} and {self.output_size}; leave it at 0"
            )
        if not 0 <= self.consistency_weight < math.inf:
            raise ValueError(f"consistency_weight is {self.consistency_weight}; it needs to be a number from 0 up")
        if self.attention is None:
            self.attention = _native_attention(self.backbone_config)
        elif self.attention != _native_attention(self.backbone_config):
            self.backbone_config.is_causal = self.attention == "causal"  # what masks of decoders follow
            self.backbone_config.is_decoder = self.attention == "causal"  # what masks of encoders follow
        self._check_lookahead()
        self.backbone_config.use_cache = False

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "SpeechBertConfig":
        """Make a configuration of a dictionary; fields among the other arguments are checked and followed too."""
        given = {name: kwargs.pop(name) for name in set(kwargs) & set(cls.__annotations__)}
        return super().from_dict(config_dict | given, **kwargs)

    def _check_lookahead(self) -> None:
        step_ms = 1000 * self.inputs_to_logits_ratio / self.sampling_rate
        if self.lookahead_ms < 0 or self.lookahead_ms % step_ms:
            raise ValueError(
                f"lookahead_ms is {self.lookahead_ms}; it needs to be 0 or a multiple of a step, {step_ms:g} ms here"
            )
        if self.lookahead_ms and self.attention == "bidirectional":
            raise ValueError(
                f"lookahead_ms is {self.lookahead_ms}, and attention is bidirectional, which hears all that follows; "
                "leave it at 0, or set attention to causal"
            )

    @property
    def lookahead_steps(self) -> int:
        """Steps that a causal model's front-end looks ahead."""
        return round(self.lookahead_ms * self.sampling_rate / (1000 * self.inputs_to_logits_ratio))

    @property
    def hidden_size(self) -> int:
        """Width of the transformer's layers."""
        return self.backbone_config.hidden_size

    @property
    def embedding_size(self) -> int:
        """Width of `inputs_embeds`, which the front-end makes; ALBERT, ELECTRA and OPT project it to their own."""
        names = ("embedding_size", "word_embed_proj_dim", "hidden_size")
        return next(size for name in names if (size := getattr(self.backbone_config, name, None)))

    @property
    def output_size(self) -> int:
        """Width of the transformer's output, which the head takes; OPT projects it back to its embeddings' width."""
        return getattr(self.backbone_config, "word_embed_proj_dim", None) or self.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the transformer."""
        return self.backbone_config.num_hidden_layers

    @property
    def num_attention_heads(self) -> int:
        """Attention heads in each layer of the transformer."""
        return self.backbone_config.num_attention_heads

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from one step of logits to the next; the pipeline computes chunks and times from it."""
        return self.subsampling * self.hop_length


def _text_config(fields: dict) -> PreTrainedConfig:
    """Make the text checkpoint's configuration of its dictionary; without a `model_type` it is BERT's."""
    model_type = fields.get("model_type", "bert")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"backbone_config has model_type {model_type!r}, which this transformers does not know; upgrade it"
        )
    return CONFIG_MAPPING[model_type](**{name: value for name, value in fields.items() if name != "model_type"})


def _native_attention(backbone_config: PreTrainedConfig) -> str:
    """Direction that the text checkpoint was trained with."""
    is_decoder = getattr(backbone_config, "is_decoder", False)
    return "causal" if is_decoder else family_attention(backbone_config.model_type)


def family_attention(model_type: str) -> str:
    """Direction that the models of a family are trained with: masked language models look both ways."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    is_decoder_only = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return "causal" if is_decoder_only and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "bidirectional"


def _require(name: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it needs to be one of {', '.join(map(repr, allowed))}")


__all__ = ["SpeechBertConfig"]
