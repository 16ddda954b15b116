"""What both models share with transformers: names, capabilities, initial weights, and how they are saved."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .backbone_speechbert import layer_classes
from .configuration_speechbert import SpeechBertConfig
from .padding_speechbert import output_lengths

AUTO_MODELS = {
    "AutoModel": "modeling_speechbert.SpeechBertModel",
    "AutoModelForCTC": "modeling_speechbert.SpeechBertForCTC",
}


class SpeechBertPreTrainedModel(PreTrainedModel):
    """Base class of the model with and without a head."""

    config_class = SpeechBertConfig
    base_model_prefix = "speechbert"
    main_input_name = "input_features"
    input_modalities = ("audio",)
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def post_init(self) -> None:
        """Name what FSDP wraps one by one and `device_map` keeps together: the front-end and the body's layers.

        The library joins what each part names in its class, where some families name nothing and others name what
        this model lacks, which FSDP takes for an error.
        """
        super().post_init()
        base = getattr(self, self.base_model_prefix, self)
        present = {type(module).__name__ for module in self.modules()}
        named = present.intersection(self._no_split_modules or ())
        self._no_split_modules = named | {type(base.frontend).__name__} | layer_classes(base.backbone)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.LSTM):
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)

    def save_pretrained(self, *args: object, **kwargs: object) -> None:
        """Save as every `PreTrainedModel`; where this code is saved too, each Auto class finds its model there."""
        if self._auto_class is not None:
            self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **AUTO_MODELS}
        given = type(self)
        if given.__name__.startswith("FSDP"):  # derived by torch's FSDP2, whose code would be saved in place of this
            self.__class__ = given.__bases__[-1]
        try:
            super().save_pretrained(*args, **kwargs)
        finally:
            self.__class__ = given

    def get_input_embeddings(self) -> nn.Module:
        """The front-end: what stands in the place of word embeddings."""
        return getattr(self, self.base_model_prefix, self).frontend

    def _get_feat_extract_output_lengths(self, frame_lengths: torch.Tensor | int) -> torch.Tensor | int:
        return output_lengths(frame_lengths, self.config.subsampling)


__all__ = ["SpeechBertPreTrainedModel"]
