"""The order of an epoch's clips: like durations together, the longest first, the batch that is not full last."""

import pytest
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_speechft.training.sampler import EpochSampler


def test_epoch_sampler_puts_clips_of_like_duration_in_a_batch():
    durations = torch.rand(800, generator=torch.Generator().manual_seed(0)).tolist()
    order = list(EpochSampler(8, lengths=durations, find_seed=lambda: 1))
    batches = [[durations[index] for index in order[start : start + 8]] for start in range(0, 800, 8)]
    assert sum(max(batch) - min(batch) for batch in batches) / len(batches) < 0.1
    firsts = [batch[0] for batch in batches[1:]]
    assert firsts != sorted(firsts)
    assert firsts != sorted(firsts, reverse=True)


@pytest.mark.parametrize("count", [1, 5, 8, 9, 16, 803])
def test_epoch_sampler_begins_with_the_longest_and_ends_with_the_batch_that_is_not_full(count):
    durations = torch.rand(count, generator=torch.Generator().manual_seed(0)).tolist()
    order = list(EpochSampler(8, lengths=durations, find_seed=lambda: 1))
    assert sorted(order) == list(range(count))
    assert max(durations) in [durations[index] for index in order[:8]]
    grouped = list(LengthGroupedSampler(8, lengths=durations, generator=torch.Generator().manual_seed(1)))
    whole = count - count % 8
    assert order[whole:] == grouped[whole:]
    assert {tuple(order[start : start + 8]) for start in range(0, whole, 8)} == {
        tuple(grouped[start : start + 8]) for start in range(0, whole, 8)
    }
