"""Normalisation of features: over the whole clip, or over what was heard of it so far."""

import torch

NORMALIZE_MODES = ("utterance", "running", "mean", "none")
CAUSAL_NORMALIZE_MODES = ("running", "none")  # a frame doesn't depend on what follows it

STD_FLOOR = 1e-3  # log units; keeps the rounding noise of a constant feature (digital silence) from being amplified
NORMALIZE_BLOCK_FRAMES = 8192
# What "running" takes for granted before it has heard anything: that many frames of speech that have this mean of all
# mel filters and this standard deviation, in log units, at a waveform_scale of 1. Rounded from AN4 and LibriSpeech.
PRIOR_FRAMES = 100  # 1 s
PRIOR_MEL_MEAN = {"fbank": -7.5, "mfcc": -7.5, "log_mel": -10.0}
PRIOR_STD = {"fbank": 3.7, "mfcc": 10.0, "log_mel": 3.0}


def normalize_clip(features: torch.Tensor, scales: bool) -> None:
    """Subtract the mean of each feature over a clip's frames, and where `scales` divide by its standard deviation.

    Args:
        features: `(frames, feature_size)`, changed in place.
        scales: Whether the variance shall be 1.
    """
    features -= features.mean(0)
    if scales:
        squares = sum(block.square().sum(0) for block in features.split(NORMALIZE_BLOCK_FRAMES))
        features /= (squares / len(features)).sqrt_().clamp_min_(STD_FLOOR)


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
