"""Weights that several processes share among them: FSDP and DeepSpeed, as Accelerate sets them up.

While training, a process holds a part of the weights, gradients and optimiser. Then each gets the whole weights in a
plain model, and what follows (averaging, decoding, saving) is as without them.
"""

from __future__ import annotations

import torch
from accelerate.utils import broadcast
from safetensors.torch import load_file
from transformers import Trainer
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_speechft import SpeechBertForCTC
from hf_speechft.training.methods import apply_method

WHOLE = "FULL_STATE_DICT"


def is_sharding(trainer: Trainer) -> bool:
    """Tell whether a trainer's weights, or their gradients and optimiser, are shared among processes."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def check_sharding(trainer: Trainer) -> None:
    """Refuse checkpoints in pieces, which neither `from_pretrained` nor the end of a run can read.

    Raises:
        ValueError: Accelerate's configuration asks for them.
    """
    state = trainer.accelerator.state
    if trainer.is_fsdp_enabled and state.fsdp_plugin.state_dict_type.name != WHOLE:
        raise ValueError(
            f"FSDP would save checkpoints as {state.fsdp_plugin.state_dict_type.name}; set fsdp_state_dict_type to "
            f"{WHOLE} in Accelerate's configuration, as accelerate_configs/fsdp.yaml does"
        )
    if trainer.is_deepspeed_enabled and state.deepspeed_plugin.zero_stage == 3:
        config = state.deepspeed_plugin.deepspeed_config
        if not config["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save"):
            raise ValueError(
                "DeepSpeed would save checkpoints in pieces; set zero3_save_16bit_model to true in Accelerate's "
                "configuration, as accelerate_configs/deepspeed_zero3.yaml does"
            )


def gather_weights(trainer: Trainer) -> None:
    """Give a trainer, after training, a plain model with the whole weights, the same on every process.

    They need to fit the device; the optimiser, gradients and activations are what sharding saves memory on. Without
    sharding nothing changes.
    """
    if is_sharding(trainer):
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # whole on the main process only
        _use_plain_model(trainer, weights)


def read_weights(trainer: Trainer, checkpoint: str) -> None:
    """Give a trainer that has not trained a plain model with the weights of a checkpoint."""
    _use_plain_model(trainer, load_file(f"{checkpoint}/{SAFE_WEIGHTS_NAME}"))


def _use_plain_model(trainer: Trainer, weights: dict[str, torch.Tensor]) -> None:
    model = SpeechBertForCTC(trainer.accelerator.unwrap_model(trainer.model).config)
    apply_method(model, trainer.args.method)  # the low-rank updates of LoRA are weights too
    if trainer.is_world_process_zero():
        model.load_state_dict(weights)
    model = model.to(trainer.args.device).eval()
    broadcast(model.state_dict())
    trainer.model = trainer.model_wrapped = trainer.accelerator.prepare_model(model, evaluation_mode=True)
