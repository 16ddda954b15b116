"""Sound to features: Kaldi filter banks and MFCC, and librosa log-mel, in batched torch on any device.

Unusual here: pre-emphasis runs once over the samples of a block instead of once per overlapping frame, the DC offset
becomes one number per frame, and the mel matrix is cut into small matrices along its diagonal. Blocks of frames share
two buffers, so a recording of hours needs little more memory than its features, and on a CPU a clip goes through the
same operations alone and in a batch: the same bits come out.

Source: Kaldi `feat/feature-fbank.cc` and `feat/feature-mfcc.cc` as in `torchaudio.compliance.kaldi`;
`librosa.feature.melspectrogram`. Both are references in the tests and not needed here.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType, logging

logger = logging.get_logger(__name__)

FEATURE_TYPES = ("fbank", "mfcc", "log_mel")
NORMALIZE_MODES = ("utterance", "running", "mean", "none")
CAUSAL_NORMALIZE_MODES = ("running", "none")  # a frame doesn't depend on what follows it

PREEMPHASIS = 0.97
POVEY_POWER = 0.85  # the Povey window is a Hann window to this power
KALDI_LOW_HZ = 20.0
KALDI_FLOOR = torch.finfo(torch.float32).eps  # floor of a mel energy before the logarithm
KALDI_MFCC_MELS = 23
KALDI_LIFTER = 22.0
LOG_MEL_OFFSET = 1e-6  # log(mel + 1e-6)
STD_FLOOR = 1e-3  # log units; keeps the rounding noise of a constant feature (digital silence) from being amplified
MIN_MELS = 4
MAX_CHANNELS = 32  # a 2-D clip whose short axis is longer than this is not multi-channel audio
INT16_SCALE = 1.0 / 32768.0
MELS_PER_BAND = 16  # one AVX-512 register
CPU_BLOCK_FRAMES = 1024  # 10 s; 2 MiB of float32 spectra, which stays in the caches
ACCELERATOR_BLOCK_FRAMES = 65536  # 128 MiB of float32 spectra
NORMALIZE_BLOCK_FRAMES = 8192
# What "running" takes for granted before it has heard anything: that many frames of speech that have this mean of all
# mel filters and this standard deviation, in log units, at a waveform_scale of 1. Rounded from AN4 and LibriSpeech.
PRIOR_FRAMES = 100  # 1 s
PRIOR_MEL_MEAN = {"fbank": -7.5, "mfcc": -7.5, "log_mel": -10.0}
PRIOR_STD = {"fbank": 3.7, "mfcc": 10.0, "log_mel": 3.0}

Clip = np.ndarray | torch.Tensor | Sequence
Speech = Clip | Sequence[Clip]


class FeatureTables(NamedTuple):
    """Constant matrices of one configuration on one device."""

    window: torch.Tensor  # (frame_samples,)
    bands: list[tuple[slice, torch.Tensor]]  # the bins that 16 neighbouring filters see, their weights (bins, mels)
    cosines: torch.Tensor | None  # (mels, cepstra), liftered; mfcc only


class RunningNormalizer:
    """Normalise each frame by the mean and variance of the clip up to it: what `normalize="running"` does.

    `(x[t] - mean[t]) / sqrt(variance[t])`, both over frames 0 to t and `PRIOR_FRAMES` frames of a prior, so that the
    first frames are sane and a pause is not blown up to the loudness of speech. A clip can be given in pieces of any
    size; the frames come out as from the whole.

    Args:
        mean: The prior's mean, `(feature_size,)`.
        std: Its standard deviation, as wide.
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        # MPS has no float64; elsewhere it keeps the sums of hours as exact as those of a second.
        self.sums_dtype = torch.float32 if mean.device.type == "mps" else torch.float64
        self.centre = mean
        self.frames = PRIOR_FRAMES
        self.sum = torch.zeros_like(mean, dtype=self.sums_dtype)  # of x - centre
        self.squares = PRIOR_FRAMES * std.to(self.sums_dtype).square()

    def __call__(self, features: torch.Tensor) -> None:
        """Normalise the next frames, `(frames, feature_size)`, in place."""
        for block in features.split(NORMALIZE_BLOCK_FRAMES):
            centred = (block - self.centre).to(self.sums_dtype)
            sums = centred.cumsum(0) + self.sum
            squares = centred.square().cumsum(0) + self.squares
            frames = torch.arange(1, len(block) + 1, device=block.device)[:, None] + self.frames
            means = sums / frames
            std = (squares / frames - means.square()).clamp_min(STD_FLOOR**2).sqrt()
            block.copy_((centred - means) / std)
            self.frames, self.sum, self.squares = self.frames + len(block), sums[-1], squares[-1]


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
def _tables(
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


class SpeechBertFeatureExtractor(SequenceFeatureExtractor):
    r"""Turn waveforms into `input_features (batch, frames, mels)` and `attention_mask (batch, frames)`.

    Floating-point waveforms are used as they are, usually in [-1, 1], and int16 samples are divided by 32768: the
    same waveform given to `torchaudio.compliance.kaldi` gives the same features. At this scale Kaldi's floor on mel
    energies lies near the rounding noise of 16-bit audio, so digital silence is no far outlier. Set
    `waveform_scale=32768.0` for what Kaldi itself computes from 16-bit files.

    - `fbank`: `log max(energy, 1.19e-7)`, Kaldi's defaults without dither: frames that fit entirely, DC offset
      removed, pre-emphasis 0.97, Povey window, Fourier transform of the next power of two, filters from 20 Hz.
    - `mfcc`: the cosine transform of those, C0 first, lifter 22.
    - `log_mel`: `log(mel + 1e-6)` with librosa's defaults: power, periodic Hann window, Slaney filters from 0 Hz,
      frame t centred on sample `t * hop_length`, zeros beyond the ends, `n_fft` the next power of two.

    Args:
        feature_size: Width of a frame: mel filters of `fbank` and `log_mel`, coefficients of `mfcc`.
        sampling_rate: Of the waveforms that will be given, in Hz.
        padding_value: What frames beyond a clip's end are filled with.
        feature_type: `"fbank"`, `"mfcc"` or `"log_mel"`.
        frame_length_ms: Length of a frame in ms.
        frame_shift_ms: Time between the starts of two frames in ms.
        normalize: `"utterance"`: each feature has mean 0 and variance 1 over the clip's own frames; `"running"`: the
            same over the clip's frames so far, for models that stream; `"mean"`: mean 0 only; `"none"` or `None`: as
            computed.
        num_mel_bins: Mel filters under the coefficients of `mfcc`; `None` means the larger of 23 (Kaldi) and
            `feature_size`. For the other types it is `feature_size`.
        waveform_scale: Factor applied to waveforms before anything else.

    Raises:
        ValueError: If a value is unknown or the sizes do not fit each other.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        feature_type: str = "fbank",
        frame_length_ms: float = 25.0,
        frame_shift_ms: float = 10.0,
        normalize: str | None = "utterance",
        num_mel_bins: int | None = None,
        waveform_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.feature_type = feature_type
        self.frame_length_ms = frame_length_ms
        self.frame_shift_ms = frame_shift_ms
        self.normalize = "none" if normalize is None else normalize
        self.num_mel_bins = num_mel_bins
        self.waveform_scale = waveform_scale
        self._check_configuration()

    @property
    def frame_length(self) -> int:
        """Length of a frame in samples, rounded down as Kaldi does."""
        return int(self.sampling_rate * self.frame_length_ms * 0.001)

    @property
    def hop_length(self) -> int:
        """Samples between the starts of two frames, rounded down as Kaldi does."""
        return int(self.sampling_rate * self.frame_shift_ms * 0.001)

    @property
    def fft_length(self) -> int:
        """Length of the Fourier transform: the frame length rounded up to a power of two."""
        return 1 << (self.frame_length - 1).bit_length()

    @property
    def mel_filters_used(self) -> int:
        """Number of mel filters, also under the coefficients of `mfcc`."""
        if self.feature_type != "mfcc":
            return self.feature_size
        return max(KALDI_MFCC_MELS, self.feature_size) if self.num_mel_bins is None else self.num_mel_bins

    def frame_count(self, samples: int) -> int:
        """Return how many frames a clip of so many samples gives.

        `fbank` and `mfcc`: `1 + (samples - frame_length) // hop_length`; `log_mel`: `1 + samples // hop_length`. A
        clip shorter than one frame gives 0 and is refused by `__call__`.
        """
        if samples < self.frame_length:
            return 0
        return 1 + (samples if self.feature_type == "log_mel" else samples - self.frame_length) // self.hop_length

    @property
    def lead_samples(self) -> int:
        """How many samples before the first sample the first frame starts: librosa centres it there."""
        return (self.frame_length + 1) // 2 if self.feature_type == "log_mel" else 0

    @torch.no_grad()
    def compute_frames(self, waveform: torch.Tensor, frames: int, lead_samples: int) -> torch.Tensor:
        """Compute features without normalisation, for a stream.

        Args:
            waveform: `(samples,)`, as in `__call__`; beyond its ends are zeros.
            frames: How many.
            lead_samples: How many samples before the first sample the first frame starts.

        Returns:
            `(frames, feature_size)` in float32.
        """
        block_frames = CPU_BLOCK_FRAMES if waveform.device.type == "cpu" else ACCELERATOR_BLOCK_FRAMES
        output = torch.empty(frames, self.feature_size, device=waveform.device)
        windowed = output.new_zeros(min(block_frames, frames), self.fft_length)
        with torch.autocast(waveform.device.type, enabled=False):
            self._extract_clip(waveform, output, windowed, lead_samples)
        return output

    def running_normalizer(self, device: str | torch.device) -> RunningNormalizer:
        """Return what normalises one clip if `normalize` is `"running"`."""
        mean = PRIOR_MEL_MEAN[self.feature_type] + 2 * math.log(self.waveform_scale)
        means = torch.full((self.mel_filters_used,), mean)
        if self.feature_type == "mfcc":
            means = means @ liftered_cosines(self.mel_filters_used, self.feature_size)  # (feature_size,)
        return RunningNormalizer(means.to(device), torch.full_like(means, PRIOR_STD[self.feature_type]).to(device))

    @torch.no_grad()
    def __call__(
        self,
        raw_speech: Speech,
        sampling_rate: int | None = None,
        return_tensors: str | TensorType | None = None,
        return_attention_mask: bool | None = None,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        device: str | torch.device | None = None,
    ) -> BatchFeature:
        """Compute the features of one clip or a batch.

        A clip is a 1-D array, tensor or list of numbers, floating point or int16. A list or tuple of clips is a batch,
        and so is a 2-D array `(batch, samples)`. Channels are averaged: inside a list a 2-D clip is `(channels,
        samples)` or `(samples, channels)`, the short axis being the channels, and so is a single array `(samples,
        channels)` whose rows are too short to be clips.

        Args:
            raw_speech: One clip or a batch.
            sampling_rate: Rate of the clips in Hz; checked against the extractor's. Without it a warning is logged.
            return_tensors: `"pt"` for tensors on the device, `"np"` for arrays; without it arrays, or lists of
                arrays where the lengths differ.
            return_attention_mask: Whether to return the mask (int32, 1 = real frame). Default: as configured, `True`.
            padding: `True` or `"longest"`, `"max_length"`, `False` or `"do_not_pad"`.
            max_length: In frames, for `padding="max_length"` and for truncation.
            truncation: Keep the first `max_length` frames only; normalisation sees only these.
            pad_to_multiple_of: Round the padded number of frames up to a multiple of this.
            device: Where to compute. Default: the device of the first clip that is a tensor, otherwise the CPU.

        Returns:
            `input_features (batch, frames, feature_size)` in float32, and `attention_mask (batch, frames)`.

        Raises:
            ValueError: If the rate differs or a clip is empty, too short, not finite, or not of a known form; the
                message names the clip.
        """
        self._check_rate(sampling_rate)
        clips = _split_batch(raw_speech, self.frame_length)
        if device is None:
            device = next((clip.device for clip in clips if isinstance(clip, torch.Tensor)), "cpu")
        waveforms = [self._to_waveform(clip, index).to(device) for index, clip in enumerate(clips)]
        counts = [self.frame_count(len(waveform)) for waveform in waveforms]
        strategy = self._get_padding_strategies(padding=padding, max_length=max_length)
        counts, widths = self._plan_padding(counts, strategy, max_length, truncation, pad_to_multiple_of or 1)
        inputs = _filled(widths, [self.feature_size], self.padding_value, torch.float32, device)
        masks = _filled(widths, [], 0, torch.int32, device)
        left = self.padding_side == "left"
        spans = [slice(width - n, width) if left else slice(0, n) for n, width in zip(counts, widths, strict=True)]
        outputs = [features[span] for features, span in zip(inputs, spans, strict=True)]  # each (frames, feature_size)
        with torch.autocast(torch.device(device).type, enabled=False):  # bf16 energies would be wrong by 1e-2
            self._extract(waveforms, outputs)
        for mask, span in zip(masks, spans, strict=True):
            mask[span] = 1
        data = {"input_features": inputs}
        if self.return_attention_mask if return_attention_mask is None else return_attention_mask:
            data["attention_mask"] = masks
        if return_tensors is None or TensorType(return_tensors) == TensorType.NUMPY:
            data = {name: _to_numpy(value) for name, value in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def _check_configuration(self) -> None:
        """Refuse values that cannot work, and say which would."""
        if self.feature_type not in FEATURE_TYPES:
            raise ValueError(f"feature_type={self.feature_type!r} is unknown; use one of {', '.join(FEATURE_TYPES)}")
        if self.normalize not in NORMALIZE_MODES:
            raise ValueError(f"normalize={self.normalize!r} is unknown; use one of {', '.join(NORMALIZE_MODES)}")
        if self.sampling_rate <= 0 or self.frame_length < 2 or self.hop_length < 1:
            raise ValueError(
                f"sampling_rate={self.sampling_rate} Hz, frame_length_ms={self.frame_length_ms} and frame_shift_ms="
                f"{self.frame_shift_ms} give frames of {self.frame_length} samples every {self.hop_length}; at least "
                "2 and 1 are needed"
            )
        if self.feature_type != "mfcc" and self.num_mel_bins not in (None, self.feature_size):
            raise ValueError(
                f"num_mel_bins={self.num_mel_bins} differs from feature_size={self.feature_size}; for "
                f"feature_type={self.feature_type!r} set feature_size only"
            )
        mels, bins = self.mel_filters_used, self.fft_length // 2
        if not 1 <= self.feature_size <= mels:
            raise ValueError(f"feature_size={self.feature_size} cepstra need 1 <= feature_size <= num_mel_bins={mels}")
        if not MIN_MELS <= mels <= bins:
            raise ValueError(
                f"{mels} mel filters do not fit: frames of {self.frame_length_ms:g} ms at {self.sampling_rate} Hz "
                f"resolve {bins} frequencies; use {MIN_MELS} to {bins} filters or a longer frame_length_ms"
            )

    def _check_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate is None:
            logger.warning_once(
                f"{type(self).__name__} was not told the sampling_rate and takes the audio for {self.sampling_rate} "
                "Hz. Pass sampling_rate=… so that audio of another rate is noticed."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"audio at sampling_rate={sampling_rate} Hz was given but this feature extractor needs "
                f"{self.sampling_rate} Hz; resample the audio"
            )

    def _to_waveform(self, clip: Clip, index: int) -> torch.Tensor:
        """Return one clip as a checked mono waveform `(samples,)`, still int16 if it was."""
        waveform = _to_tensor(clip, index)
        shape = tuple(waveform.shape)
        if waveform.numel() == 0:
            raise ValueError(f"clip {index} is empty (shape {shape}); drop it")
        if len(shape) not in (1, 2):
            raise ValueError(
                f"clip {index} has {len(shape)} dimensions (shape {shape}); a clip has 1, or 2 with channels"
            )
        if len(shape) == 2:
            waveform = _mix_channels(waveform, index)
        if len(waveform) < self.frame_length:
            raise ValueError(
                f"clip {index} lasts {len(waveform) / self.sampling_rate * 1000:.1f} ms ({len(waveform)} samples) but "
                f"one frame needs {self.frame_length_ms:g} ms ({self.frame_length} samples); drop it or pad it with "
                "silence"
            )
        if not math.isfinite(waveform.sum()):  # much cheaper than to look at each sample
            bad = (~torch.isfinite(waveform)).nonzero().flatten().tolist()
            if bad:
                raise ValueError(
                    f"clip {index} holds NaN or infinity, first at {bad[0] / self.sampling_rate:.3f} s (sample "
                    f"{bad[0]}); drop the clip or repair it"
                )
        return waveform

    def _plan_padding(
        self, counts: list[int], strategy: PaddingStrategy, max_length: int | None, truncation: bool, multiple: int
    ) -> tuple[list[int], list[int]]:
        """Return the frames to compute and the frames to allocate for each clip, as `pad` would arrive at them."""
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length} was given; at least 1 frame is needed")
        if truncation:
            if max_length is None:
                raise ValueError("truncation=True needs max_length, the number of frames to keep")
            counts = [min(count, -(-max_length // multiple) * multiple) for count in counts]
        if strategy == PaddingStrategy.DO_NOT_PAD:
            return counts, counts
        target = max_length if strategy == PaddingStrategy.MAX_LENGTH else max(counts)
        target = -(-target // multiple) * multiple
        # Without truncation a clip longer than max_length stays whole, as in stock extractors.
        return counts, [max(count, target) for count in counts]

    def _extract(self, waveforms: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Write the normalised features of each waveform `(samples,)` to its output `(frames, feature_size)`."""
        if waveforms[0].device.type != "cpu":
            self._extract_joined(waveforms, outputs)
            return
        windowed = outputs[0].new_zeros(min(CPU_BLOCK_FRAMES, max(map(len, outputs))), self.fft_length)
        for waveform, output in zip(waveforms, outputs, strict=True):
            self._extract_clip(waveform, output, windowed, self.lead_samples)
            self._normalize(output)  # while it lies in the caches

    def _extract_joined(self, waveforms: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Do the same with few, large launches, for accelerators.

        The clips are laid one after another on the grid of frames. The frames that reach from one clip into the next
        are computed and dropped; nothing is padded to the longest clip.
        """
        hop, frame = self.hop_length, self.frame_length
        gap_frames = max(0, -(-(frame - hop) // hop))
        starts = np.cumsum([0] + [len(output) + gap_frames for output in outputs]).tolist()
        joined = outputs[0].new_zeros(starts[-1] * hop + frame)
        for waveform, start, output in zip(waveforms, starts[:-1], outputs, strict=True):
            _copy_samples(waveform, -self.lead_samples, joined[start * hop :][: (len(output) - 1) * hop + frame])
        rows = outputs[0].new_empty(starts[-1], self.feature_size)
        windowed = outputs[0].new_zeros(min(ACCELERATOR_BLOCK_FRAMES, len(rows)), self.fft_length)
        self._extract_clip(joined, rows, windowed, 0)
        for start, output in zip(starts[:-1], outputs, strict=True):
            output.copy_(rows[start : start + len(output)])
            self._normalize(output)

    def _normalize(self, features: torch.Tensor) -> None:
        """Normalise the `(frames, feature_size)` of a clip in place over its frames."""
        if self.normalize == "running":
            self.running_normalizer(features.device)(features)
        elif self.normalize != "none":
            features -= features.mean(0)
        if self.normalize == "utterance":
            squares = sum(block.square().sum(0) for block in features.split(NORMALIZE_BLOCK_FRAMES))
            features /= (squares / len(features)).sqrt_().clamp_min_(STD_FLOOR)

    def _extract_clip(self, waveform: torch.Tensor, output: torch.Tensor, windowed: torch.Tensor, lead: int) -> None:
        """Fill `output (frames, feature_size)` block by block; the first frame starts `lead` samples early.

        `windowed (block_frames, fft_samples)` is room for the windowed frames of a block, 0 beyond the frame.
        """
        hop, frame, fft, mels = self.hop_length, self.frame_length, self.fft_length, self.mel_filters_used
        device = str(waveform.device)
        tables = _tables(self.feature_type, self.sampling_rate, frame, fft, mels, self.feature_size, device)
        window = tables.window * self.waveform_scale
        buffer = windowed.new_empty(1 + (len(windowed) - 1) * hop + frame)
        for first in range(0, len(output), len(windowed)):
            out = output[first : first + len(windowed)]
            block = windowed[: len(out)]
            samples = buffer[: 1 + (len(out) - 1) * hop + frame]  # the first is context, for pre-emphasis
            _copy_samples(waveform, first * hop - lead - 1, samples)
            self._write_windowed(samples, window, block[:, :frame])
            parts = torch.view_as_real(torch.fft.rfft(block)).square_()  # (frames, bins, 2)
            # A frame has at least as many samples as there are bins, so the zeros after it stay for the next block.
            power = torch.add(parts[..., 0], parts[..., 1], out=block[:, : fft // 2 + 1])
            self._write_features(power, tables, out)

    def _write_windowed(self, samples: torch.Tensor, window: torch.Tensor, to: torch.Tensor) -> None:
        """Cut `samples`, from the second on, into frames and write them to `to (frames, frame_samples)`."""
        frames = samples[1:].unfold(0, self.frame_length, self.hop_length)
        if self.feature_type == "log_mel":
            torch.mul(frames, window, out=to)
            return
        # x - mean, then y[j] - 0.97 y[j - 1], equals (x[j] - 0.97 x[j - 1]) - 0.03 mean. The first sample of a
        # frame, where Kaldi repeats it instead, is multiplied by the window's 0.
        offset = frames.mean(-1, keepdim=True).mul_(1.0 - PREEMPHASIS)  # (frames, 1)
        emphasised = torch.sub(samples[1:], samples[:-1], alpha=PREEMPHASIS)
        torch.sub(emphasised.unfold(0, self.frame_length, self.hop_length), offset, out=to)
        to.mul_(window)

    def _write_features(self, power: torch.Tensor, tables: FeatureTables, to: torch.Tensor) -> None:
        """Turn `power (frames, bins)` into features `to (frames, feature_size)`."""
        energies = to if tables.cosines is None else to.new_empty(len(to), self.mel_filters_used)
        for (bins, weights), columns in zip(tables.bands, energies.split(MELS_PER_BAND, dim=1), strict=True):
            torch.mm(power[:, bins], weights, out=columns)
        if self.feature_type == "log_mel":
            energies.add_(LOG_MEL_OFFSET).log_()
        else:
            energies.clamp_min_(KALDI_FLOOR).log_()
        if tables.cosines is not None:
            torch.mm(energies, tables.cosines, out=to)


def _split_batch(raw_speech: Speech, frame_length: int) -> list[Clip]:
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


def _to_tensor(clip: Clip, index: int) -> torch.Tensor:
    """Return a clip as a tensor of floating point or int16, sharing memory where possible."""
    if isinstance(clip, torch.Tensor):
        tensor = clip.detach()
    else:
        array = _to_array(clip, index)
        native = np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
        # Arrow arrays are read-only, which torch warns about; only then is the samples' memory copied.
        tensor = torch.from_numpy(np.require(array, dtype=native, requirements=["C", "W"]))
    if not (tensor.is_floating_point() or tensor.dtype == torch.int16):
        raise ValueError(
            f"clip {index} holds {tensor.dtype} values; pass floating point in [-1, 1], or 16-bit PCM as int16"
        )
    return tensor


def _to_array(clip: Clip, index: int) -> np.ndarray:
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


def _mix_channels(clip: torch.Tensor, index: int) -> torch.Tensor:
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


def _copy_samples(waveform: torch.Tensor, start: int, to: torch.Tensor) -> None:
    """Fill `to (samples,)` in float32 from `waveform[start]` on, with zeros beyond the ends; int16 becomes [-1, 1)."""
    first, last = max(start, 0), min(start + len(to), len(waveform))
    inside = to[first - start : last - start]
    to[: first - start] = 0.0
    to[last - start :] = 0.0
    inside.copy_(waveform[first:last])
    if waveform.dtype == torch.int16:
        inside.mul_(INT16_SCALE)


def _filled(
    widths: list[int], size: list[int], value: float, dtype: torch.dtype, device: str | torch.device
) -> torch.Tensor | list[torch.Tensor]:
    """Return `(batch, width, *size)`, or a list of `(width, *size)` where the widths differ."""
    if len(set(widths)) == 1:
        return torch.full((len(widths), widths[0], *size), value, dtype=dtype, device=device)
    return [torch.full((width, *size), value, dtype=dtype, device=device) for width in widths]


def _to_numpy(value: torch.Tensor | list[torch.Tensor]) -> np.ndarray | list[np.ndarray]:
    """Return arrays on the host."""
    return [item.cpu().numpy() for item in value] if isinstance(value, list) else value.cpu().numpy()
