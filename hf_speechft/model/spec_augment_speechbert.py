"""What training does to features, drawn for a whole batch at once: a warp of frequencies, SpecAugment's masks."""

import math

import torch

from .configuration_speechbert import SpeechBertConfig
from .mel_filters_speechbert import KALDI_LOW_HZ
from .padding_speechbert import length_mask


def warp_frequencies(features: torch.Tensor, largest: float, sampling_rate: int) -> torch.Tensor:
    """Give each utterance another vocal tract: move its mel bins as if all frequencies were a little higher or lower.

    Args:
        features: Mel energies `(batch, frames, mels)` on Kaldi's mel scale from 20 Hz up; on librosa's (`log_mel`) a
            warp of 0.1 moves them to less than one bin from where they should be.
        largest: Frequencies are multiplied by `1 - largest` to `1 + largest`, drawn for each utterance.
        sampling_rate: Rate of the audio in Hz; half of it is the highest frequency.

    Returns:
        The features, each bin between the two nearest to where it comes from; what would come from beyond the lowest
        or highest bin is that bin.

    Source:
        Jaitly and Hinton, "Vocal Tract Length Perturbation (VTLP) improves speech recognition", 2013.
    """
    batch, _, mels = features.shape
    factors = 1 + largest * (2 * torch.rand(batch, 1, device=features.device) - 1)
    low, high = (1127.0 * math.log1p(hz / 700.0) for hz in (KALDI_LOW_HZ, sampling_rate / 2))
    spacing = (high - low) / (mels + 1)
    centres = low + spacing * torch.arange(1, mels + 1, device=features.device)  # mel
    hz = 700.0 * torch.expm1(centres / 1127.0) / factors  # (batch, mels)
    places = ((1127.0 * torch.log1p(hz / 700.0) - low) / spacing - 1).clamp(0, mels - 1)
    below = places.floor().clamp(max=mels - 2)
    share = (places - below)[:, None, :].to(features.dtype)
    at = below.long()[:, None, :].expand_as(features)
    return features.gather(2, at) * (1 - share) + features.gather(2, at + 1) * share


def mask_features(features: torch.Tensor, frame_lengths: torch.Tensor, config: SpeechBertConfig) -> torch.Tensor:
    """Zero spans of frames and of mel bins, where zero is the mean of normalised features.

    Args:
        features: `(batch, frames, mels)`.
        frame_lengths: Frames of each utterance, `(batch,)`.
        config: Says how many spans, and how long, in `mask_time_*` and `mask_feature_*`.

    Returns:
        The features, masked in each utterance in another way.
    """
    batch, frames, mels = features.shape
    time_mask = span_mask(
        frame_lengths, frames, config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks
    )  # (batch, frames)
    bins = torch.full((batch,), mels, device=features.device)
    mel_mask = span_mask(
        bins, mels, config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks
    )  # (batch, mels)
    return features.masked_fill(time_mask[:, :, None] | mel_mask[:, None, :], 0.0)


def span_mask(lengths: torch.Tensor, size: int, share: float, span: int, min_spans: int) -> torch.Tensor:
    """Draw spans of one width at random places, as Wav2Vec2's `mask_time_*` settings describe them.

    Each row gets `share * length / span` spans, rounded up or down at random, at least `min_spans`; they may overlap.

    Args:
        lengths: Places that may be masked in each row, `(batch,)`.
        size: Width of the mask.
        share: Share of the places that spans cover, overlaps counted twice.
        span: Places in a span; cut where a row is shorter.
        min_spans: Least number of spans in each row.

    Returns:
        Boolean mask `(batch, size)`, True inside a span.
    """
    device = lengths.device
    mask = torch.zeros(len(lengths), size, dtype=torch.bool, device=device)
    if share <= 0 and min_spans <= 0:
        return mask
    counts = (share * lengths / span + torch.rand(len(lengths), device=device)).floor().clamp(min=min_spans)
    most = max(int(share * size / span) + 1, min_spans)
    starts = torch.rand(len(lengths), most, device=device) * (lengths - span + 1).clamp(min=1)[:, None]
    starts = starts.floor()[:, :, None]  # (batch, spans, 1)
    places = torch.arange(size, device=device)
    inside = (places >= starts) & (places < starts + span)  # (batch, spans, size)
    drawn = torch.arange(most, device=device)[None, :] < counts[:, None]
    mask |= (inside & drawn[:, :, None]).any(dim=1)
    return mask & length_mask(lengths, size)
