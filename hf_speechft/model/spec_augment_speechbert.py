"""SpecAugment's masks (arXiv:1904.08779), drawn for a whole batch at once."""

import torch

from .configuration_speechbert import SpeechBertConfig
from .padding_speechbert import length_mask


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
