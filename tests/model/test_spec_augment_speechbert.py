"""The masks of SpecAugment: shares, lengths and counts."""

import pytest
import torch

from hf_speechft import SpeechBertConfig
from hf_speechft.model.spec_augment_speechbert import mask_features, span_mask


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
