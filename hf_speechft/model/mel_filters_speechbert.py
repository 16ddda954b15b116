"""Constant matrices of the features: mel filters as Kaldi and as librosa have them, windows, the cosine transform."""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

POVEY_POWER = 0.85  # the Povey window is a Hann window to this power
KALDI_LOW_HZ = 20.0
KALDI_LIFTER = 22.0
MELS_PER_BAND = 16  # one AVX-512 register


class FeatureTables(NamedTuple):
    """Constant matrices of one configuration on one device."""

    window: torch.Tensor  # (frame_samples,)
    bands: list[tuple[slice, torch.Tensor]]  # the bins that 16 neighbouring filters see, their weights (bins, mels)
    cosines: torch.Tensor | None  # (mels, cepstra), liftered; mfcc only


def cut_into_bands(filters: torch.Tensor) -> list[tuple[slice, torch.Tensor]]:
    """Cut a filter matrix `(bins, mels)`, which is nearly diagonal, into small matrices along its diagonal."""
    bands = []
    for weights in filters.split(MELS_PER_BAND, dim=1):
        used = weights.any(dim=1).nonzero().flatten().tolist() or [0]
        bins = slice(used[0], used[-1] + 1)
        bands.append((bins, weights[bins].contiguous()))
    return bands


def kaldi_mel_filters(mels: int, fft_samples: int, sampling_rate: int) -> torch.Tensor:
    """Return Kaldi's filters `(fft_samples // 2 + 1, mels)`: triangles on the mel scale `1127 ln(1 + f / 700)`.

    Computed in float32 step by step as Kaldi does, because the weight of a bin at a filter's edge depends on rounding.
    The bin at half the sampling rate has weight 0.

    Source:
        Kaldi `feat/mel-computations.cc`, `MelBanks::MelBanks`.
    """
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (KALDI_LOW_HZ, sampling_rate / 2))
    spacing = (high - low) / (mels + 1)
    index = torch.arange(mels, dtype=torch.float32)[:, None]
    left, centre, right = (low + (index + offset) * spacing for offset in (0.0, 1.0, 2.0))  # each (mels, 1)
    bin_hz = sampling_rate / fft_samples * torch.arange(fft_samples // 2, dtype=torch.float32)
    bin_mel = 1127.0 * (1.0 + bin_hz / 700.0).log()  # (bins - 1,)
    triangles = torch.minimum((bin_mel - left) / (centre - left), (right - bin_mel) / (right - centre))
    return torch.nn.functional.pad(triangles.clamp_min(0.0), (0, 1)).T


def slaney_mel_filters(mels: int, fft_samples: int, sampling_rate: int) -> torch.Tensor:
    """Return librosa's filters `(fft_samples // 2 + 1, mels)`: Slaney's mel scale, triangles in Hz of equal area.

    Source:
        `librosa.filters.mel` with `htk=False, norm="slaney"`; Slaney, Auditory Toolbox (1998), `mfcc.m`.
    """
    hz_per_mel, knee_hz, log_step = 200.0 / 3.0, 1000.0, math.log(6.4) / 27.0  # linear below 1 kHz, logarithmic above
    knee_mel = knee_hz / hz_per_mel
    half_rate = sampling_rate / 2
    top = half_rate / hz_per_mel if half_rate < knee_hz else knee_mel + math.log(half_rate / knee_hz) / log_step
    mel = np.linspace(0.0, top, mels + 2)
    edge_hz = np.where(mel < knee_mel, mel * hz_per_mel, knee_hz * np.exp(log_step * (mel - knee_mel)))
    bin_hz = np.arange(fft_samples // 2 + 1) * (sampling_rate / fft_samples)
    rising = (bin_hz[:, None] - edge_hz[:-2]) / (edge_hz[1:-1] - edge_hz[:-2])
    falling = (edge_hz[2:] - bin_hz[:, None]) / (edge_hz[2:] - edge_hz[1:-1])
    weights = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edge_hz[2:] - edge_hz[:-2]))
    return torch.from_numpy(weights.astype(np.float32))


def liftered_cosines(mels: int, cepstra: int) -> torch.Tensor:
    """Return Kaldi's orthonormal cosine transform `(mels, cepstra)`, C0 first, with cepstral liftering folded in.

    Source:
        Kaldi `feat/feature-mfcc.cc` and `ComputeLifterCoeffs` in `feat/mel-computations.cc`.
    """
    order = torch.arange(cepstra, dtype=torch.float64)
    centre = torch.arange(mels, dtype=torch.float64)[:, None] + 0.5
    cosines = torch.cos(math.pi / mels * centre * order) * math.sqrt(2.0 / mels)
    cosines[:, 0] = math.sqrt(1.0 / mels)
    lifter = 1.0 + 0.5 * KALDI_LIFTER * torch.sin(math.pi * order / KALDI_LIFTER)
    return (cosines * lifter).to(torch.float32)


@functools.lru_cache(maxsize=32)
def feature_tables(
    feature_type: str, sampling_rate: int, frame: int, fft: int, mels: int, size: int, device: str
) -> FeatureTables:
    """Make the constant matrices once per configuration and device; kept here so that no buffer is ever saved."""
    with torch.inference_mode(False):
        if feature_type == "log_mel":
            window = torch.hann_window(frame, dtype=torch.float64)
            filters = slaney_mel_filters(mels, fft, sampling_rate)
        else:
            window = torch.hann_window(frame, periodic=False, dtype=torch.float64).pow(POVEY_POWER)
            filters = kaldi_mel_filters(mels, fft, sampling_rate)
        empty = int((filters.sum(0) == 0).sum())
        if empty:
            logger.warning_once(
                f"{empty} of {mels} mel filters are always empty: narrower than the {sampling_rate / fft:.1f} Hz from "
                "one frequency to the next; use fewer mel filters or a longer frame_length_ms"
            )
        cosines = liftered_cosines(mels, size).to(device) if feature_type == "mfcc" else None
        return FeatureTables(window.to(device, torch.float32), cut_into_bands(filters.to(device)), cosines)
