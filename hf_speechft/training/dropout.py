"""Dropout for CPUs, where drawing torch's mask is a large part of an update."""

import torch
from torch import nn

LEVELS = 256  # of a byte


class ByteDropout(nn.Dropout):
    """`torch.nn.Dropout` that draws a byte for each value: eight of them are one random number.

    The probability is rounded to a 256th. On other devices this is torch's own dropout.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Zero values at random in training, and scale the others up, so that the expected value stays."""
        dropped = round(self.p * LEVELS)
        if not self.training or input.device.type != "cpu" or not 0 < dropped < LEVELS:
            return super().forward(input)
        drawn = torch.empty(-(-input.numel() // 8), dtype=torch.int64).random_(-(2**63), None)  # 8 bytes at a time
        kept = drawn.view(torch.uint8)[: input.numel()].view(input.shape) >= dropped
        return input * kept.to(input.dtype).mul_(LEVELS / (LEVELS - dropped))


def draw_bytes(model: nn.Module) -> None:
    """Put `ByteDropout` in the place of each `torch.nn.Dropout` of a model; what is saved stays the same."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, ByteDropout(child.p).train(child.training))
