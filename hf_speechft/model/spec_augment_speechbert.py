"""SpecAugment's masks (arXiv:1904.08779), drawn for a whole batch at once."""

import torch

from .frontend_speechbert import length_mask


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
