"""The masks of SpecAugment: shares, lengths and counts. The warp of frequencies, against sounds and librosa."""

import librosa
import numpy as np
import pytest
import torch

from hf_speechft import SpeechBertConfig, SpeechBertFeatureExtractor
from hf_speechft.model.spec_augment_speechbert import mask_features, span_mask, warp_frequencies

RATE_HZ = 16_000


def test_span_mask_covers_the_share_it_was_given():
    torch.manual_seed(0)
    lengths = torch.full((4000,), 200)
    mask = span_mask(lengths, 200, share=0.1, span=10, min_spans=0)
    assert mask.shape == (4000, 200)
    # Two spans of 10 in 191 places overlap by 10 * 10 / 191 on average, give or take the ends.
    assert mask.float().mean().item() == pytest.approx((20 - 100 / 191) / 200, rel=0.02)
    # Every place is hit; those in the middle all equally often.
    middle = mask[:, 10:190].float().mean(dim=0)
    assert middle.min() > 0.07
    assert middle.max() < 0.13


def test_span_mask_number_of_spans_is_rounded_at_random():
    torch.manual_seed(0)
    mask = span_mask(torch.full((5000,), 100), 100, share=0.03, span=10, min_spans=0)
    assert set(mask.sum(dim=-1).tolist()) == {0, 10}
    assert (mask.any(dim=-1)).float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_span_mask_stays_within_lengths():
    torch.manual_seed(0)
    lengths = torch.tensor([0, 3, 10, 50] * 200)
    mask = span_mask(lengths, 60, share=0.5, span=10, min_spans=1)
    beyond = torch.arange(60)[None, :] >= lengths[:, None]
    assert not mask[beyond].any()
    assert mask[lengths == 50].any(dim=-1).all()
    assert (mask[lengths == 3].sum(dim=-1) == 3).all()  # a row shorter than a span is covered


def test_span_mask_least_number_of_spans_is_kept():
    torch.manual_seed(0)
    counts = span_mask(torch.full((300,), 400), 400, share=0.0, span=5, min_spans=2).sum(dim=-1)
    assert counts.min() >= 5
    assert counts.max() == 10


def test_span_mask_nothing_asked_is_empty():
    assert not span_mask(torch.tensor([20, 30]), 30, share=0.0, span=5, min_spans=0).any()


def test_span_mask_seed_repeats():
    masks = []
    for _ in range(2):
        torch.manual_seed(7)
        masks.append(span_mask(torch.tensor([50, 40]), 50, share=0.3, span=5, min_spans=0))
    assert torch.equal(*masks)


def test_mask_features_zeroes_whole_frames_and_bins_and_changes_nothing_else():
    torch.manual_seed(0)
    times = {"mask_time_prob": 0.3, "mask_time_length": 5, "mask_time_min_masks": 1}
    bins = {"mask_feature_prob": 0.3, "mask_feature_length": 4, "mask_feature_min_masks": 1}
    features = torch.rand(2, 60, 20) + 1
    masked = mask_features(features, torch.tensor([60, 40]), SpeechBertConfig(**times, **bins))
    is_zero = masked == 0
    frames, mels = is_zero.all(dim=2), is_zero.all(dim=1)
    assert frames.any(dim=1).all()
    assert mels.any(dim=1).all()
    assert torch.equal(is_zero, frames[:, :, None] | mels[:, None, :])
    assert torch.equal(masked[~is_zero], features[~is_zero])
    assert not frames[1, 40:].any()


def drawn_factors(batch, largest, seed):
    """What `warp_frequencies` multiplies the frequencies of each utterance by after this seed."""
    torch.manual_seed(seed)
    return (1 + largest * (2 * torch.rand(batch) - 1)).tolist()


def chord(factor):
    """Formants of a vowel, sung by a vocal tract that multiplies them by a factor."""
    time_s = np.arange(RATE_HZ // 2) / RATE_HZ
    return sum(0.1 * np.sin(2 * np.pi * factor * hz * time_s) for hz in (730, 1_090, 2_440, 3_900)).astype(np.float32)


@pytest.mark.parametrize("feature_type", ["fbank", "log_mel"])
def test_warp_frequencies_gives_the_features_of_another_vocal_tract(feature_type):
    extractor = SpeechBertFeatureExtractor(feature_type=feature_type, normalize="none")
    factors = drawn_factors(8, 0.1, seed=3)
    assert min(factors) < 0.95
    assert max(factors) > 1.05
    given = extractor([chord(1.0)] * 8, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"]
    wanted = extractor([chord(factor) for factor in factors], sampling_rate=RATE_HZ, return_tensors="pt")
    wanted = wanted["input_features"][:, 20]  # (batch, mels), of a frame in the middle
    torch.manual_seed(3)
    warped = warp_frequencies(given, 0.1, RATE_HZ)[:, 20]
    before, after = ((row - wanted).abs().mean().item() for row in (given[:, 20], warped))
    assert after < before / 3


def test_warp_frequencies_is_interpolation_on_the_mel_scale():
    features = torch.rand(5, 30, 23)
    factors = drawn_factors(5, 0.3, seed=1)
    edges = np.linspace(*librosa.hz_to_mel([20, 8_000], htk=True), 25)
    centres_hz = librosa.mel_to_hz(edges[1:-1], htk=True)
    torch.manual_seed(1)
    warped = warp_frequencies(features, 0.3, RATE_HZ)
    for row, factor, found in zip(features, factors, warped, strict=True):
        at = librosa.hz_to_mel(centres_hz / factor, htk=True)
        for frame, found_frame in zip(row, found, strict=True):
            expected = np.interp(at, edges[1:-1], frame.numpy())
            np.testing.assert_allclose(found_frame.numpy(), expected, atol=1e-4)


def test_warp_frequencies_of_nothing_changes_nothing():
    features = torch.randn(3, 20, 80)
    torch.testing.assert_close(warp_frequencies(features, 0.0, RATE_HZ), features, atol=1e-4, rtol=0)


def test_warp_frequencies_keeps_the_type_and_what_is_padding():
    features = torch.randn(2, 20, 80, dtype=torch.bfloat16)
    features[1, 12:] = 0
    warped = warp_frequencies(features, 0.1, RATE_HZ)
    assert (warped.dtype, warped.shape) == (torch.bfloat16, features.shape)
    assert (warped[1, 12:] == 0).all()
    assert not torch.equal(warped[0], features[0])
