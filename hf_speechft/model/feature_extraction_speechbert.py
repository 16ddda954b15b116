"""Sound to features: Kaldi filter banks and MFCC, and librosa log-mel, in batched torch on any device.

Unusual here: pre-emphasis runs once over the samples of a block instead of once per overlapping frame, the DC offset
becomes one number per frame, and the mel matrix is cut into small matrices along its diagonal. Blocks of frames share
two buffers, so a recording of hours needs little more memory than its features, and on a CPU a clip goes through the
same operations alone and in a batch: the same bits come out.

Source: Kaldi `feat/feature-fbank.cc` and `feat/feature-mfcc.cc` as in `torchaudio.compliance.kaldi`;
`librosa.feature.melspectrogram`. Both are references in the tests and not needed here.
"""

import math
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType, logging

from .mel_filters_speechbert import MELS_PER_BAND, FeatureTables, feature_tables, liftered_cosines
from .normalization_speechbert import NORMALIZE_MODES, PRIOR_MEL_MEAN, PRIOR_STD, RunningNormalizer, normalize_clip
from .waveforms_speechbert import Clip, Speech, copy_samples, mix_channels, split_batch, to_tensor

logger = logging.get_logger(__name__)

FEATURE_TYPES = ("fbank", "mfcc", "log_mel")

PREEMPHASIS = 0.97
KALDI_FLOOR = torch.finfo(torch.float32).eps  # floor of a mel energy before the logarithm
KALDI_MFCC_MELS = 23
LOG_MEL_OFFSET = 1e-6  # log(mel + 1e-6)
MIN_MELS = 4
CPU_BLOCK_FRAMES = 1024  # 10 s; 2 MiB of float32 spectra, which stays in the caches
ACCELERATOR_BLOCK_FRAMES = 65536  # 128 MiB of float32 spectra


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
        clips = split_batch(raw_speech, self.frame_length)
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
        if self.padding_side == "left":
            logger.warning_once("padding_side is 'left', and a SpeechBERT takes padding there for sound; use 'right'.")
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
        waveform = to_tensor(clip, index)
        shape = tuple(waveform.shape)
        if waveform.numel() == 0:
            raise ValueError(f"clip {index} is empty (shape {shape}); drop it")
        if len(shape) not in (1, 2):
            raise ValueError(
                f"clip {index} has {len(shape)} dimensions (shape {shape}); a clip has 1, or 2 with channels"
            )
        if len(shape) == 2:
            waveform = mix_channels(waveform, index)
        if len(waveform) < self.frame_length:
            raise ValueError(
                f"clip {index} lasts {len(waveform) / self.sampling_rate * 1000:.1f} ms ({len(waveform)} samples) but "
                f"one frame needs {self.frame_length_ms:g} ms ({self.frame_length} samples); drop it, pad it with "
                "silence or, where a pipeline cut it off a recording, let its chunks overlap (stride_length_s)"
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
            copy_samples(waveform, -self.lead_samples, joined[start * hop :][: (len(output) - 1) * hop + frame])
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
            normalize_clip(features, scales=self.normalize == "utterance")

    def _extract_clip(self, waveform: torch.Tensor, output: torch.Tensor, windowed: torch.Tensor, lead: int) -> None:
        """Fill `output (frames, feature_size)` block by block; the first frame starts `lead` samples early.

        `windowed (block_frames, fft_samples)` is room for the windowed frames of a block, 0 beyond the frame.
        """
        hop, frame, fft, mels = self.hop_length, self.frame_length, self.fft_length, self.mel_filters_used
        device = str(waveform.device)
        tables = feature_tables(self.feature_type, self.sampling_rate, frame, fft, mels, self.feature_size, device)
        window = tables.window * self.waveform_scale
        buffer = windowed.new_empty(1 + (len(windowed) - 1) * hop + frame)
        for first in range(0, len(output), len(windowed)):
            out = output[first : first + len(windowed)]
            block = windowed[: len(out)]
            samples = buffer[: 1 + (len(out) - 1) * hop + frame]  # the first is context, for pre-emphasis
            copy_samples(waveform, first * hop - lead - 1, samples)
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
