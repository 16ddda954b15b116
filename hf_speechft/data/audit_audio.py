"""What an audit hears in a sample of a corpus: level, clipping, silence, DC offset, sampling rate.

Everything is measured at the file's own rate, because resampling hides clipping. The limits are where a listener would
look twice, not where training fails.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from tqdm import tqdm

from hf_speechft.data.audio import AudioError, load_audio
from hf_speechft.data.decoders import decode_blocks
from hf_speechft.data.findings import Finding, Flag, Utterance, counted, graded

MAX_MEASURED_S = 60.0  # of a clip; bounds the memory that a recording of hours takes
MAX_CLIPPED = 0.001  # share of samples in flat tops
MAX_DC_OFFSET = 0.01  # of full scale
MAX_SILENT = 0.6  # share of frames
MAX_EDGE_SILENCE_S = 1.0
MIN_LEVEL_DB = -50.0  # of the loudest part of a clip, re full scale
_FRAME_S = 0.02
_SILENT_BELOW_LOUD_DB = 40.0
_FLAT_SAMPLES = 3  # as many in a row at the peak are a flat top: a normalised clip has one or two there
_FLAT_PEAK = 0.5  # quiet sounds have few steps near their peak, which look flat


@dataclass(frozen=True)
class ClipMeasures:
    """What was measured in one clip.

    Attributes:
        utterance: Whose sound it is.
        rate_hz: Sampling rate of the file.
        peak: Largest absolute sample, 1 at full scale.
        loud_db: Level that 5 % of the frames exceed, in dB re full scale.
        dc_offset: Mean of the samples.
        clipped: Share of the samples in flat tops.
        silent: Share of the frames that are 40 dB below `loud_db` or more; 1 where there is no sound at all.
        start_silence_s: Silence before the first sound.
        end_silence_s: Silence behind the last.
    """

    utterance: Utterance
    rate_hz: int
    peak: float
    loud_db: float
    dc_offset: float
    clipped: float
    silent: float
    start_silence_s: float
    end_silence_s: float

    @property
    def is_empty(self) -> bool:
        """Whether the clip holds no sound that could be speech."""
        return self.loud_db < MIN_LEVEL_DB


def draw_sample(utterances: Sequence[Utterance], size: int, seed: int) -> list[Utterance]:
    """Draw readable utterances, all if there are fewer, in the order of the corpus."""
    readable = [utterance for utterance in utterances if utterance.is_readable]
    if len(readable) <= size:
        return readable
    return [readable[index] for index in sorted(random.Random(seed).sample(range(len(readable)), size))]


def measure_sample(
    corpus: DatasetDict, sample: Sequence[Utterance], *, show_progress: bool = False
) -> tuple[list[ClipMeasures], list[Flag]]:
    """Decode and measure utterances.

    Args:
        corpus: From `load_corpus`.
        sample: Which utterances.
        show_progress: Whether to show a bar.

    Returns:
        The measures, and the utterances whose sound cannot be decoded although their header could be read.
    """
    measures, broken = [], []
    for utterance in tqdm(sample, desc="Listening to the sample", disable=not show_progress):
        try:
            measures.append(measure_clip(utterance, corpus[utterance.split][utterance.row]["audio"]))
        except AudioError as error:
            broken.append(Flag(utterance, str(error)))
    return measures, broken


def measure_clip(utterance: Utterance, clip: dict[str, Any]) -> ClipMeasures:
    """Measure one clip, its first minute if it is longer.

    Args:
        utterance: Whose clip.
        clip: `{"bytes", "path"}`, encoded.

    Raises:
        AudioError: It cannot be decoded, or holds NaN or infinity.
    """
    samples, rate_hz = _decode(clip)
    peak = float(np.abs(samples).max())
    levels_db = _frame_levels_db(samples, rate_hz)
    loud_db = float(np.percentile(levels_db, 95))
    is_sound = (levels_db > loud_db - _SILENT_BELOW_LOUD_DB) & (levels_db >= MIN_LEVEL_DB - _SILENT_BELOW_LOUD_DB)
    sounds = np.flatnonzero(is_sound)
    start, end = (sounds[0], len(is_sound) - 1 - sounds[-1]) if sounds.size else (len(is_sound), len(is_sound))
    return ClipMeasures(
        utterance=utterance,
        rate_hz=rate_hz,
        peak=peak,
        loud_db=loud_db,
        dc_offset=float(samples.mean(dtype=np.float64)),
        clipped=_flat_samples(samples, peak) / samples.size,
        silent=float(1 - is_sound.mean()),
        start_silence_s=float(start * _FRAME_S),
        end_silence_s=float(end * _FRAME_S) if samples.size < MAX_MEASURED_S * rate_hz else 0.0,
    )


def check_decodable(broken: Sequence[Flag], read: int) -> Finding:
    """Report clips whose header is right and whose sound is not."""
    if not broken:
        return Finding("decoding", "fine", f"{counted(read, 'clip')} read and decoded")
    message = f"{len(broken):,} of {counted(read, 'clip')} cannot be decoded, though their headers can be read"
    return Finding("decoding", "problem", message, "copy or record them again, or remove them", list(broken))


def check_audio(measures: Sequence[ClipMeasures], model_rate_hz: int) -> list[Finding]:
    """Report clipping, silence, DC offset and low sampling rates in a sample.

    Args:
        measures: From `measure_sample`.
        model_rate_hz: Rate that the features are computed at.

    Returns:
        One finding for each.
    """
    return [
        _check_clipping(measures),
        _check_silence(measures),
        _check_dc_offset(measures),
        _check_rates(measures, model_rate_hz),
    ]


def _check_clipping(measures: Sequence[ClipMeasures]) -> Finding:
    clipped = sorted((clip for clip in measures if clip.clipped > MAX_CLIPPED), key=lambda clip: -clip.clipped)
    flags = [Flag(clip.utterance, f"{100 * clip.clipped:.2g} % of the samples are clipped") for clip in clipped]
    if not flags:
        return Finding("clipping", "fine", "no clipped recordings")
    message = f"{len(flags):,} of {counted(len(measures), 'sampled clip')} clipped"
    return Finding("clipping", "look", message, "listen; record at a lower level if words suffer", flags)


def _check_silence(measures: Sequence[ClipMeasures]) -> Finding:
    empty = [Flag(clip.utterance, f"no sound above {MIN_LEVEL_DB:g} dB") for clip in measures if clip.is_empty]
    long = [
        Flag(
            clip.utterance,
            f"{100 * clip.silent:.0f} % silent, {clip.start_silence_s:.1f} s before and "
            f"{clip.end_silence_s:.1f} s behind the speech",
        )  # fmt: skip
        for clip in sorted(measures, key=lambda clip: -clip.silent)
        if not clip.is_empty
        and (max(clip.start_silence_s, clip.end_silence_s) > MAX_EDGE_SILENCE_S or clip.silent > MAX_SILENT)
    ]
    if not empty and not long:
        return Finding("silence", "fine", "no silent recordings, no long silence at the edges")
    parts = [f"{len(empty):,} silent"] if empty else []
    parts += [f"{len(long):,} with over {MAX_EDGE_SILENCE_S:g} s or {100 * MAX_SILENT:g} % of silence"] if long else []
    message = f"of {counted(len(measures), 'sampled clip')} {' and '.join(parts)}"
    remedy = " and ".join(["remove the silent ones"] * bool(empty) + ["trim the edges of the others"] * bool(long))
    return Finding("silence", "problem" if empty else "look", message, remedy, empty + long)


def _check_dc_offset(measures: Sequence[ClipMeasures]) -> Finding:
    shifted = [clip for clip in measures if abs(clip.dc_offset) > MAX_DC_OFFSET]
    shifted.sort(key=lambda clip: -abs(clip.dc_offset))
    flags = [Flag(clip.utterance, f"the mean is {clip.dc_offset:+.3f} of full scale") for clip in shifted]
    if not flags:
        return Finding("DC offset", "fine", "no DC offset")
    message = (
        f"{len(flags):,} of {counted(len(measures), 'sampled clip')} with a DC offset above {100 * MAX_DC_OFFSET:g} %"
    )
    return Finding("DC offset", "look", message, "subtract the mean, or filter out what is below 20 Hz", flags)


def _check_rates(measures: Sequence[ClipMeasures], model_rate_hz: int) -> Finding:
    rates = Counter(clip.rate_hz for clip in measures)
    shown = ", ".join(f"{count:,} at {rate:,} Hz" for rate, count in sorted(rates.items()))
    low = [Flag(clip.utterance, f"{clip.rate_hz} Hz") for clip in measures if clip.rate_hz < model_rate_hz]
    if not low:
        return Finding("sampling rate", "fine", shown or "no clip was read")
    remedy = f"train with --sampling_rate {min(rates)}"
    if len(low) < len(measures):
        remedy += ", or expect the two kinds to be recognised differently"
    message = f"{shown}: {counted(len(low), 'sampled clip')} below the {model_rate_hz:,} Hz of the features"
    return Finding("sampling rate", graded(len(low), len(measures)), message, remedy, low)


def _decode(clip: dict[str, Any]) -> tuple[np.ndarray, int]:
    """Decode the first minute at the file's rate."""
    path, content = clip["path"], clip["bytes"]
    name = path or f"audio of {len(content or b'')} bytes"
    blocks, rate_hz, samples = [], 0, 0
    source = content if content is not None else Path(path)
    for rate_hz, block in decode_blocks(name, source, MAX_MEASURED_S):
        blocks.append(block)
        samples += block.size
        if samples >= MAX_MEASURED_S * rate_hz:
            break
    if not samples:
        raise AudioError(f"{name} holds no samples; drop it from the corpus or record it again")
    waveform = np.concatenate(blocks)
    load_audio(waveform, rate_hz)  # which refuses what training would refuse: NaN, infinity, integers kept as floats
    return waveform, rate_hz


def _frame_levels_db(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Level of each frame of 20 ms in dB re full scale, its mean taken off; returns `(frames,)`."""
    length = min(samples.size, max(1, round(_FRAME_S * rate_hz)))
    frames = samples[: samples.size // length * length].reshape(-1, length)
    return 20 * np.log10(np.maximum(frames.std(axis=1), 1e-6))


def _flat_samples(samples: np.ndarray, peak: float) -> int:
    """Count the samples in runs at the peak, which are what clipping leaves, at full scale or scaled down."""
    if peak < _FLAT_PEAK:
        return 0
    count = 0
    for signed in (samples, -samples):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], signed >= 0.9999 * peak, [False]]).astype(np.int8)))
        lengths = edges[1::2] - edges[::2]
        count += int(lengths[lengths >= _FLAT_SAMPLES].sum())
    return count
