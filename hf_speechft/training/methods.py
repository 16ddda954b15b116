"""Training methods: which weights of the pre-trained body learn, and how fast. Front-end and head always learn.

full       all weights from the first update on.
staged     the body stands still, but for its norms, for a share of the updates; then its layers learn the faster, the
           nearer they are to the output (ULMFiT, Howard and Ruder, 2018, arXiv:1801.06146).
lora       low-rank updates of the body's linear layers, merged into them at the end (Hu et al., 2021,
           arXiv:2106.09685).
layernorm  of the body its norms only (Lu et al., "Pretrained Transformers as Universal Computation Engines", 2021,
           arXiv:2103.05247).
frozen     nothing of the body.
random     the same body, and head, with random weights: the control, which tells what the text checkpoint is worth.
"""

from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_speechft import SpeechBertForCTC
from hf_speechft.model.backbone_speechbert import build_backbone
from hf_speechft.training.optim import BODY, norms

LORA_RANK = 16
LORA_ALPHA = 32


def apply_method(model: SpeechBertForCTC, method: str) -> None:
    """Prepare a model for a training method, in place; `staged` is a matter of the learning rates only.

    Args:
        model: As made from a text checkpoint.
        method: Its name.

    Raises:
        ImportError: The method is `lora`, and peft is not installed.
    """
    if method == "random":
        model.speechbert.backbone = build_backbone(model.config).to(model.dtype)
        model._init_weights(model.head)  # of native units it began as word embeddings
    elif method == "lora":
        _add_lora(model)
    elif method in ("layernorm", "frozen"):
        model.speechbert.backbone.requires_grad_(False)
        if method == "layernorm":
            for norm in norms(model.speechbert.backbone):
                norm.requires_grad_(True)


def _add_lora(model: SpeechBertForCTC) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            '--method lora needs the package peft, which is not installed; run: pip install "hf_speechft[lora]"'
        ) from error
    linear = {
        name: module
        for name, module in model.named_modules()
        if name.startswith(BODY) and isinstance(module, nn.Linear | Conv1D)
    }
    learning = [parameter for name, parameter in model.named_parameters() if not name.startswith(BODY)]
    is_transposed = any(isinstance(module, Conv1D) for module in linear.values())  # GPT-2's weights are
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=list(linear), fan_in_fan_out=is_transposed)
    inject_adapter_in_model(config, model)
    for parameter in learning:  # peft freezes all but its own
        parameter.requires_grad_(True)


def merge_lora(model: SpeechBertForCTC) -> None:
    """Add low-rank updates to the weights that they belong to, in place: what is saved then needs no peft."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "merge"):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    model.requires_grad_(True)
