"""Lengths of steps, masks, and utterances read backwards, against plain lists."""

import math

import pytest
import torch

from hf_speechft.model.padding_speechbert import count_frames, length_mask, output_lengths, reverse

every_subsampling = pytest.mark.parametrize("subsampling", [2, 4, 8])


@every_subsampling
def test_output_lengths_match_ceiling_of_quotient(subsampling):
    frames = list(range(70))
    expected = [math.ceil(count / subsampling) for count in frames]
    assert [output_lengths(count, subsampling) for count in frames] == expected
    assert output_lengths(torch.tensor(frames), subsampling).tolist() == expected


@every_subsampling
def test_output_lengths_match_repeated_halving(subsampling):
    for frames in range(70):
        steps = frames
        for _ in range(int(math.log2(subsampling))):
            steps = math.ceil(steps / 2)
        assert output_lengths(frames, subsampling) == steps


def test_count_frames_are_those_of_the_mask_or_all():
    features = torch.zeros(2, 4, 3)
    assert count_frames(features, None).tolist() == [4, 4]
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.int32)
    assert count_frames(features, mask).tolist() == [3, 1]


@pytest.mark.parametrize(("lengths", "size"), [([0, 2, 3], 3), ([1], 4)])
def test_length_mask_is_true_within_lengths(lengths, size):
    mask = length_mask(torch.tensor(lengths), size)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[place < length for place in range(size)] for length in lengths]


def test_reverse_turns_each_utterance_and_turns_it_back():
    lengths = torch.tensor([5, 2, 1, 0])
    hidden = torch.arange(4 * 5 * 2).reshape(4, 5, 2)
    turned = reverse(hidden, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert turned[row, :length].tolist() == hidden[row, :length].tolist()[::-1]
    assert torch.equal(reverse(turned, lengths), hidden)
