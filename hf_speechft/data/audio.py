"""The only decoder of audio: a file, bytes or an array becomes mono float32 at the rate that the model wants.

Encoded sound is decoded in decoders.py; here are the kinds of source, mixing to mono, resampling and the checks on
samples. A whole load and a stream pass through the same decoder, hence give the same samples and the same errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from hf_speechft.data.decoders import AudioError, decode_blocks, encoded_duration_s

__all__ = ["AudioError", "AudioSource", "audio_duration_s", "load_audio", "stream_audio"]

# A path, encoded bytes, an array or tensor, or what `datasets` gives: {"path", "bytes"} or {"array", "sampling_rate"}.
AudioSource = str | os.PathLike | bytes | dict | np.ndarray | Any

RESAMPLING_QUALITY = "HQ"  # soxr's default: 20 bits, pass band to 91 % of the Nyquist frequency
_DECODE_BLOCK_S = 30.0
_MAX_CHANNELS = 8  # a 2-D array with a shorter side than this has its channels there
_MAX_FLOAT_PEAK = 16.0  # 24 dB above full scale; beyond it the samples are surely integers kept as floats


def load_audio(source: AudioSource, sampling_rate_hz: int, *, source_rate_hz: int | None = None) -> np.ndarray:
    """Decode, mix to mono and resample one clip.

    Args:
        source: Path, encoded bytes, `{"path", "bytes"}`, `{"array", "sampling_rate"}`, or a bare array or tensor
            `(samples,)`, `(channels, samples)` or `(samples, channels)`. Integer arrays are scaled to [-1, 1).
        sampling_rate_hz: Rate of the result.
        source_rate_hz: Rate of a bare array; without it the array is taken to be at `sampling_rate_hz`.

    Returns:
        float32 `(samples,)` in [-1, 1]; channels are averaged, peaks that a lossy codec or the resampler pushed over
        full scale are clipped.

    Raises:
        AudioError: The file is missing, empty, not audio or cut off, or holds NaN or infinity.
    """
    _check_rate(sampling_rate_hz, "sampling_rate_hz")
    name, content = _open_source(source)
    if isinstance(content, np.ndarray):
        waveform, rate_hz = _mono(content, name), _array_rate(source, source_rate_hz) or sampling_rate_hz
    else:
        blocks = list(decode_blocks(name, content, _DECODE_BLOCK_S))
        waveform, rate_hz = _join([block for _, block in blocks]), blocks[0][0] if blocks else sampling_rate_hz
    _check_samples(waveform, name)
    if not waveform.size:
        raise AudioError(f"{name} holds no samples; drop it from the corpus or record it again")
    if rate_hz != sampling_rate_hz:
        waveform = soxr.resample(waveform, rate_hz, sampling_rate_hz, quality=RESAMPLING_QUALITY)
    return _clip(waveform)


def audio_duration_s(source: AudioSource, *, source_rate_hz: int | None = None) -> float:
    """Read how long a clip lasts from its header, without decoding it.

    The end of the file is looked up as well, so that a cut-off file fails here and not in the middle of training.

    Args:
        source: As for `load_audio`.
        source_rate_hz: Rate of a bare array.

    Returns:
        Seconds.

    Raises:
        AudioError: The file is missing, empty, not audio or cut off, or the rate of a bare array isn't known.
    """
    name, content = _open_source(source)
    if isinstance(content, np.ndarray):
        rate_hz = _array_rate(source, source_rate_hz)
        if rate_hz is None:
            raise AudioError(f"{name} has no sampling rate; pass source_rate_hz or a dict of array and sampling_rate")
        return _mono(content, name).size / rate_hz
    return encoded_duration_s(name, content)


def stream_audio(source: AudioSource, sampling_rate_hz: int, block_s: float = 30.0) -> Iterator[np.ndarray]:
    """Decode a recording of any length block by block; memory doesn't depend on its length.

    Args:
        source: As for `load_audio`; a bare array is taken to be at `sampling_rate_hz`.
        sampling_rate_hz: Rate of the blocks.
        block_s: Length of each block in seconds; the last one is shorter.

    Yields:
        float32 `(block_s * sampling_rate_hz,)`. Joined, the blocks are what `load_audio` returns.

    Raises:
        AudioError: As for `load_audio`; a file that is cut off raises after its last block that could be decoded.
    """
    _check_rate(sampling_rate_hz, "sampling_rate_hz")
    block_samples = round(block_s * sampling_rate_hz)
    if block_samples < 1:
        raise ValueError(f"block_s is {block_s} s, less than a sample at {sampling_rate_hz} Hz; use 1 s or more")
    waiting: list[np.ndarray] = []  # joined only when they fill a block: containers give 20 ms at a time
    waiting_samples = total_samples = 0
    for piece in _resampled(source, sampling_rate_hz, block_s):
        total_samples += piece.size
        waiting_samples += piece.size
        waiting.append(piece)
        if waiting_samples >= block_samples:
            joined = np.concatenate(waiting)
            whole_samples = joined.size - joined.size % block_samples
            for start in range(0, whole_samples, block_samples):
                yield _clip(joined[start : start + block_samples])
            waiting, waiting_samples = [joined[whole_samples:]], joined.size - whole_samples
    if not total_samples:
        raise AudioError(f"{_open_source(source)[0]} holds no samples; there is nothing to stream")
    if waiting_samples:
        yield _clip(np.concatenate(waiting))


def _resampled(source: AudioSource, sampling_rate_hz: int, block_s: float) -> Iterator[np.ndarray]:
    """Yield mono blocks at the asked rate as the resampler releases them, of any length."""
    name, content = _open_source(source)
    if isinstance(content, np.ndarray):
        yield load_audio(source, sampling_rate_hz)
        return
    resampler = None
    for rate_hz, block in decode_blocks(name, content, block_s):
        _check_samples(block, name)
        if rate_hz != sampling_rate_hz and resampler is None:
            resampler = soxr.ResampleStream(rate_hz, sampling_rate_hz, 1, "float32", quality=RESAMPLING_QUALITY)
        yield block if resampler is None else resampler.resample_chunk(block)
    if resampler is not None:
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _open_source(source: AudioSource) -> tuple[str, Path | bytes | np.ndarray]:
    """Tell files, bytes and arrays apart, and give each a name for error messages."""
    if isinstance(source, dict):
        return _open_dict(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise AudioError("the audio bytes are empty (0 bytes); pass the content of an audio file")
        return f"audio of {len(source)} bytes", bytes(source)
    if isinstance(source, (str, os.PathLike)):
        return str(source), _existing_file(Path(source).expanduser())
    if hasattr(source, "detach"):  # a torch tensor, told without importing torch
        source = source.detach().cpu()
        source = source.float() if str(source.dtype) == "torch.bfloat16" else source
    try:
        array = np.asarray(source)
    except ValueError as error:
        raise AudioError(f"the audio {type(source).__name__} is not an array of numbers: {error}") from error
    return f"audio array of shape {array.shape}", array


def _open_dict(source: dict) -> tuple[str, Path | bytes | np.ndarray]:
    path = source.get("path")
    if source.get("array") is not None:
        name, content = _open_source(source["array"])
    elif source.get("bytes") is not None:
        name, content = str(path or f"audio of {len(source['bytes'])} bytes"), bytes(source["bytes"])
        if not content:
            raise AudioError(f"{name} is empty (0 bytes); copy or record it again")
    elif path is not None:
        name, content = _open_source(path)
    else:
        keys = ", ".join(map(str, source)) or "none"
        raise AudioError(f"the audio dict has the keys {keys}; it needs a path, bytes, or array and sampling_rate")
    return (str(path) if path else name), content


def _existing_file(path: Path) -> Path:
    if not path.exists():
        raise AudioError(f"{path} does not exist; check the path")
    if not path.is_file():
        raise AudioError(f"{path} is a folder, not an audio file; name a file in it")
    if not path.stat().st_size:
        raise AudioError(f"{path} is empty (0 bytes); copy or record it again")
    return path


def _array_rate(source: AudioSource, source_rate_hz: int | None) -> int | None:
    rate_hz = source.get("sampling_rate") if isinstance(source, dict) else None
    rate_hz = source_rate_hz if rate_hz is None else rate_hz
    if rate_hz is not None:
        _check_rate(rate_hz, "the audio's sampling rate")
    return rate_hz


def _check_rate(rate_hz: int, what: str) -> None:
    if rate_hz <= 0:
        raise ValueError(f"{what} is {rate_hz} Hz; it must be positive, such as 16000")


def _mono(array: np.ndarray, name: str) -> np.ndarray:
    """Scale an array of any number type to [-1, 1] and average its channels; returns float32 `(samples,)`."""
    if array.ndim not in (1, 2):
        raise AudioError(f"{name} has {array.ndim} dimensions; audio has one (samples) or two (channels, samples)")
    if array.dtype.kind not in "iuf":
        raise AudioError(f"{name} holds {array.dtype}; audio samples are integers or floating-point numbers")
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        raise AudioError(
            f"{name} holds {array.dtype}, as lists of integers become, whose full scale is unknown; convert it to "
            "int16 or int32, or divide it by its full scale"
        )
    if array.dtype.kind == "f":
        waveform = array.astype(np.float32)
    else:
        full_scale = 2.0 ** (8 * array.dtype.itemsize - 1)
        offset = full_scale if array.dtype.kind == "u" else 0.0  # unsigned samples have silence in the middle
        waveform = ((array.astype(np.float64) - offset) / full_scale).astype(np.float32)
    if waveform.ndim == 2:
        channel_axis = int(np.argmin(waveform.shape))
        if waveform.shape[channel_axis] > _MAX_CHANNELS:
            raise AudioError(f"{name} has no side of at most {_MAX_CHANNELS} channels; pass one clip at a time")
        waveform = waveform.mean(axis=channel_axis) if waveform.size else waveform.ravel()  # (samples,)
    return waveform


def _clip(waveform: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.clip(waveform, -1.0, 1.0), dtype=np.float32)


def _check_samples(waveform: np.ndarray, name: str) -> None:
    bad_samples = waveform.size - np.count_nonzero(np.isfinite(waveform))
    if bad_samples:
        raise AudioError(f"{name} has {bad_samples} samples that are NaN or infinite; drop it or export it again")
    peak = np.abs(waveform).max(initial=0.0)
    if peak > _MAX_FLOAT_PEAK:
        raise AudioError(
            f"{name} reaches {peak:g}; samples kept as floats lie in [-1, 1]: divide 16-bit ones by 32768"
        )


def _join(blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)
