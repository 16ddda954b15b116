"""Normalisation of features against numpy, and its exactness over long streams."""

import numpy as np
import pytest
import torch

from hf_speechft.model import normalization_speechbert as module
from hf_speechft.model.normalization_speechbert import RunningNormalizer, normalize_clip


@pytest.mark.parametrize("scales", [True, False])
def test_normalize_clip_matches_numpy(scales, monkeypatch):
    monkeypatch.setattr(module, "NORMALIZE_BLOCK_FRAMES", 37)
    frames = torch.from_numpy(np.random.default_rng(0).normal(-7.0, 3.0, (100, 5)).astype(np.float32))
    expected = (frames - frames.mean(0)).numpy() / (frames.numpy().std(0) if scales else 1.0)
    normalize_clip(frames, scales)
    np.testing.assert_allclose(frames.numpy(), expected, atol=1e-5)


def test_normalize_clip_does_not_amplify_a_constant_feature():
    frames = torch.full((50, 2), -15.9) + 1e-6 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    normalize_clip(frames, scales=True)
    assert frames.abs().max() < 0.01


@pytest.mark.parametrize("piece_frames", [1, 7, 60_000])
def test_running_normalizer_of_ten_minutes_stays_exact(piece_frames):
    frames = 3.0 * torch.randn(60_000, 2, generator=torch.Generator().manual_seed(0)) + 20.0
    given = frames.clone()
    normalizer = RunningNormalizer(torch.zeros(2), torch.ones(2))
    for piece in given.split(piece_frames):
        normalizer(piece)
    prior = torch.tensor([-1.0, 1.0]).repeat(module.PRIOR_FRAMES // 2)[:, None].repeat(1, 2)
    heard = torch.cat([prior, frames]).double()
    expected = (frames[-1] - heard.mean(0)) / heard.std(0, unbiased=False)
    torch.testing.assert_close(given[-1].double(), expected, atol=1e-5, rtol=0)
