"""Samples in pieces of any size to the features of the whole recording, each frame as soon as it has been heard."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_speechft.model.normalization_speechbert import CAUSAL_NORMALIZE_MODES
from hf_speechft.model.waveforms_speechbert import INT16_SCALE

if TYPE_CHECKING:
    from hf_speechft.model.feature_extraction_speechbert import SpeechBertFeatureExtractor

__all__ = ["FeatureStream", "to_float"]


class FeatureStream:
    """Compute the features of one recording while it comes.

    The frames of all calls in a row are those that the extractor gives for the whole recording.

    Args:
        extractor: Its normalisation needs to be causal.
        device: Where to compute.

    Attributes:
        samples: Samples that have come.
        frames: Frames that have been given out.

    Raises:
        ValueError: The normalisation looks at the whole recording.
    """

    def __init__(self, extractor: "SpeechBertFeatureExtractor", device: str | torch.device = "cpu") -> None:
        if extractor.normalize not in CAUSAL_NORMALIZE_MODES:
            raise ValueError(
                f"this model's features are normalised over the whole utterance (normalize={extractor.normalize!r}), "
                "so it cannot stream; train one with --normalize running"
            )
        self.extractor = extractor
        self.samples = self.frames = 0
        self._normalizer = extractor.running_normalizer(device) if extractor.normalize == "running" else None
        self._kept = torch.empty(0, device=device)  # the last samples, from the start of the next frame on

    def accept(self, samples: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Take the next samples.

        Args:
            samples: `(samples,)`, any number of them: floating point in [-1, 1], or int16.

        Returns:
            The frames that they complete, `(frames, feature_size)`, often none.

        Raises:
            ValueError: The samples are not mono, of another type, or not finite.
        """
        piece = to_float(samples).to(self._kept.device)
        self._kept = torch.cat([self._kept, piece])
        self.samples += len(piece)
        extractor = self.extractor
        heard = self.samples + extractor.lead_samples - extractor.frame_length  # beyond the end of the first frame
        ready = 0 if self.samples < extractor.frame_length else 1 + heard // extractor.hop_length
        return self._compute(ready)

    def finish(self) -> torch.Tensor:
        """End the recording: give out the frames that reach beyond its end, which only `log_mel` has.

        Returns:
            `(frames, feature_size)`.
        """
        return self._compute(self.extractor.frame_count(self.samples))

    def _compute(self, ready: int) -> torch.Tensor:
        """The frames up to number `ready`."""
        hop, lead = self.extractor.hop_length, self.extractor.lead_samples
        kept_start = self.samples - len(self._kept)
        if ready == self.frames:
            return self._kept.new_empty(0, self.extractor.feature_size)
        early = kept_start + lead - self.frames * hop  # by which the next frame starts before the first kept sample
        features = self.extractor.compute_frames(self._kept, ready - self.frames, early)
        if self._normalizer is not None:
            self._normalizer(features)
        self.frames = ready
        self._kept = self._kept[max(0, ready * hop - lead - kept_start) :].clone()
        return features


def to_float(samples: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return a piece of a stream, `(samples,)`, as float32 in [-1, 1].

    Raises:
        ValueError: It is not mono, neither floating point nor int16, or not finite.
    """
    piece = samples if isinstance(samples, torch.Tensor) else torch.tensor(samples)  # a copy: it may be read-only
    if piece.ndim != 1 or not (piece.is_floating_point() or piece.dtype == torch.int16):
        raise ValueError(
            f"a piece of {piece.dtype} with shape {tuple(piece.shape)} was given; pass mono samples, (samples,), as "
            "floating point in [-1, 1] or as int16"
        )
    scaled = piece.float() * INT16_SCALE if piece.dtype == torch.int16 else piece.float()
    if not torch.isfinite(scaled).all():
        raise ValueError("a piece holds NaN or infinity; repair or drop it")
    return scaled
