"""Clips as callers give them, arrays, tensors or lists of many forms, to checked mono tensors."""

from collections.abc import Sequence

import numpy as np
import torch

MAX_CHANNELS = 32  # a 2-D clip whose short axis is longer than this is not multi-channel audio
INT16_SCALE = 1.0 / 32768.0

Clip = np.ndarray | torch.Tensor | Sequence
Speech = Clip | Sequence[Clip]


def split_batch(raw_speech: Speech, frame_length: int) -> list[Clip]:
    """Return the clips of a batch; one clip alone is a batch of one."""
    if isinstance(raw_speech, (list, tuple)):
        clips = list(raw_speech)
        if clips and not isinstance(clips[0], (list, tuple)) and getattr(clips[0], "ndim", 0) == 0:
            clips = [raw_speech]  # a list of numbers
    elif isinstance(raw_speech, (np.ndarray, torch.Tensor)):
        # As soundfile reads stereo: (samples, channels), where the rows are too short to be clips.
        stereo = raw_speech.ndim == 2 and raw_speech.shape[1] <= MAX_CHANNELS < frame_length <= raw_speech.shape[0]
        clips = [raw_speech] if raw_speech.ndim < 2 or stereo else list(raw_speech)
    else:
        raise ValueError(
            f"audio of type {type(raw_speech).__name__} was given; pass numbers as an array, a tensor or a list, or a "
            "list of those (decode files first)"
        )
    if not clips:
        raise ValueError("no audio was given (an empty batch); pass at least one clip")
    return clips


def to_tensor(clip: Clip, index: int) -> torch.Tensor:
    """Return a clip as a tensor of floating point or int16, sharing memory where possible."""
    if isinstance(clip, torch.Tensor):
        tensor = clip.detach()
    else:
        array = to_array(clip, index)
        native = np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
        # Arrow arrays are read-only, which torch warns about; only then is the samples' memory copied.
        tensor = torch.from_numpy(np.require(array, dtype=native, requirements=["C", "W"]))
    if not (tensor.is_floating_point() or tensor.dtype == torch.int16):
        raise ValueError(
            f"clip {index} holds {tensor.dtype} values; pass floating point in [-1, 1], or 16-bit PCM as int16"
        )
    return tensor


def to_array(clip: Clip, index: int) -> np.ndarray:
    """Return a clip as a numeric array; lists of tensors or arrays are channels."""
    if isinstance(clip, (list, tuple)):
        clip = [part.numpy(force=True) if isinstance(part, torch.Tensor) else part for part in clip]
    try:
        array = np.asarray(clip)
    except ValueError as error:
        raise ValueError(f"clip {index} is a nested list whose rows differ in length; pass one list a clip") from error
    if array.dtype.kind not in "iuf":
        raise ValueError(f"clip {index} holds {array.dtype} values, not numbers; pass the decoded samples")
    return array


def mix_channels(clip: torch.Tensor, index: int) -> torch.Tensor:
    """Average the channels of `(channels, samples)` or `(samples, channels)`."""
    channels = min(clip.shape)
    if channels > MAX_CHANNELS or clip.shape[0] == clip.shape[1]:
        raise ValueError(
            f"clip {index} has shape {tuple(clip.shape)}, neither (channels, samples) nor (samples, channels) with "
            f"up to {MAX_CHANNELS} channels; pass each clip as one item of the list"
        )
    axis = 0 if clip.shape[0] == channels else 1
    if channels == 1:
        return clip.select(axis, 0)
    return clip.to(torch.float32).mean(axis).mul_(INT16_SCALE if clip.dtype == torch.int16 else 1.0)


def copy_samples(waveform: torch.Tensor, start: int, to: torch.Tensor) -> None:
    """Fill `to (samples,)` in float32 from `waveform[start]` on, with zeros beyond the ends; int16 becomes [-1, 1)."""
    first = min(max(start, 0), len(waveform))
    last = max(first, min(start + len(to), len(waveform)))
    inside = to[first - start : last - start]
    to[: first - start] = 0.0
    to[last - start :] = 0.0
    inside.copy_(waveform[first:last])
    if waveform.dtype == torch.int16:
        inside.mul_(INT16_SCALE)
