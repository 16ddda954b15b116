"""Lengths of utterances in a batch, and what layers over time see before their first place and behind their last."""

from dataclasses import dataclass, field

import torch
from torch import nn


def output_lengths(frame_lengths: torch.Tensor | int, subsampling: int) -> torch.Tensor | int:
    """Steps that a front-end makes of an utterance: `ceil(frames / subsampling)`.

    Masks, the CTC loss, decoding and time stamps all come from this function.

    Args:
        frame_lengths: Frames of each utterance, `(batch,)`, or of one.
        subsampling: Frames per step.

    Returns:
        Steps of each utterance, of the type that was given.

    >>> output_lengths(98, 4)
    25
    """
    return (frame_lengths + subsampling - 1) // subsampling


def count_frames(input_features: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Frames of each utterance, `(batch,)`, of features `(batch, frames, mels)` and their mask `(batch, frames)`.

    Without a mask all frames are real.
    """
    if attention_mask is not None:
        return attention_mask.sum(dim=-1, dtype=torch.long)
    batch, frames, _ = input_features.shape
    return torch.full((batch,), frames, device=input_features.device)


def length_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Boolean mask `(batch, size)`, True in the first `lengths[i]` places of row i."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def zero_padding(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`(batch, size, channels)` with zeros behind each row's length, as a convolution finds them behind a tensor."""
    return hidden * length_mask(lengths, hidden.shape[1])[..., None].to(hidden.dtype)


def reverse(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`(batch, size, channels)` with the first `lengths[i]` places of each row in reverse order, and so the rest."""
    size = hidden.shape[1]
    places = (lengths[:, None] - 1 - torch.arange(size, device=hidden.device)) % size
    return hidden.take_along_dim(places[..., None], dim=1)


@dataclass
class FrontendPast:
    """What a causal front-end remembers of utterances that come in pieces, all of the same length.

    Attributes:
        frames: Frames that have come and complete no step yet, `(batch, frames, mels)`.
        steps: Steps encoded so far, with those that a look-ahead drops.
        layers: What a layer needs again: a convolution's last inputs, an LSTM's state, attention's keys and values.
    """

    frames: torch.Tensor | None = None
    steps: int = 0
    layers: dict[nn.Module, torch.Tensor | tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


def pad_time(
    inputs: torch.Tensor, padding: tuple[int, int], stride: int, layer: nn.Module, past: FrontendPast | None
) -> torch.Tensor:
    """Put around the inputs of a convolution over time what its first and last outputs see beside them.

    Args:
        inputs: `(batch, channels, size)` or `(batch, channels, size, bins)`.
        padding: Places to add before and behind.
        stride: That of the convolution.
        layer: The convolution.
        past: Where the inputs follow others, those are added before, and nothing behind. Otherwise zeros are added.

    Returns:
        The inputs, longer.
    """
    if past is None or layer not in past.layers:
        behind = padding[1] if past is None else 0
        inputs = nn.functional.pad(inputs, (0, 0) * (inputs.ndim - 3) + (padding[0], behind))
    else:
        inputs = torch.cat([past.layers[layer], inputs], dim=2)
    if past is not None:
        outputs = (inputs.shape[2] - padding[0] - 1) // stride + 1
        past.layers[layer] = inputs[:, :, outputs * stride :]
    return inputs
