"""Batches by seconds: the budget, every clip once, as many batches for each process, little padding, a known order."""

import csv
import math

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
from hypothesis import given
from hypothesis import strategies as st

from hf_speechft.data.batching import BUCKET_WIDTH, SecondsBatchSampler, cut_buckets, even_out, padding_share

SPEEDS = (0.9, 1.0, 1.1)


def sampler(durations_s, max_seconds, **options):
    return SecondsBatchSampler(durations_s, max_seconds, **{"find_epoch": lambda: 0} | options)


def speech_like(clips, seed=0):
    """Seconds of clips that last from 1 to 20, as LibriSpeech's do: most are long."""
    return 1 + 19 * np.random.default_rng(seed).beta(3, 1.5, clips)


def padded_s(batch, durations_s):
    return len(batch) * max(durations_s[index] for index in batch)


@pytest.mark.parametrize("max_clips", [None, 7])
def test_batches_hold_every_clip_once_within_the_budget(max_clips):
    durations_s = speech_like(1_000)
    batches = sampler(durations_s, 100.0, max_clips=max_clips).make_batches(0)
    assert sorted(index for batch in batches for index in batch) == list(range(1_000))
    assert all(padded_s(batch, durations_s) <= 100 + 1e-9 for batch in batches)
    assert max(map(len, batches)) <= (max_clips or 1_000)


def test_batches_are_as_full_as_the_budget_allows():
    durations_s = speech_like(1_000)
    batches = sampler(durations_s, 100.0).make_batches(0)
    bucket_s = [max(durations_s[batch]) / (1 - BUCKET_WIDTH) for batch in batches]  # its longest clip, at most
    with_one_more = [(len(batch) + 1) * longest_s for batch, longest_s in zip(batches, bucket_s, strict=True)]
    assert sum(seconds <= 100 for seconds in with_one_more) <= 1  # the last of the shortest clips


def test_batches_of_an_exact_fit_are_full():
    assert sorted(map(len, sampler([2.0] * 8, 8.0).make_batches(0))) == [4, 4]


def test_clip_longer_than_the_budget_is_a_batch_by_itself():
    batches = sampler([1.0, 9.0, 1.0, 12.0, 1.0], 4.0).make_batches(0)
    assert batches[0] == [3]
    assert sorted(map(sorted, batches)) == [[0, 2, 4], [1], [3]]


def test_batches_without_a_budget_are_limited_by_clips_alone():
    assert sorted(map(len, sampler([1.0, 2.0, 1.5, 1.2], math.inf, max_clips=3).make_batches(0))) == [1, 3]
    assert len(sampler([1.0, 2.0, 1.5, 1.2], math.inf)) == 1


@given(
    durations_s=st.lists(st.floats(0.1, 40.0), min_size=1, max_size=60),
    max_seconds=st.floats(0.5, 200.0),
    max_clips=st.none() | st.integers(1, 20),
    num_processes=st.integers(1, 8),
    epoch=st.integers(0, 3),
)
def test_batches_are_a_multiple_of_the_processes_and_hold_every_clip_once(
    durations_s, max_seconds, max_clips, num_processes, epoch
):
    if len(durations_s) < num_processes:
        with pytest.raises(ValueError, match="cannot be shared"):
            sampler(durations_s, max_seconds, num_processes=num_processes)
        return
    made = sampler(durations_s, max_seconds, max_clips=max_clips, num_processes=num_processes)
    batches = made.make_batches(epoch)
    assert len(batches) == len(made)
    assert len(batches) % num_processes == 0
    assert all(batches)
    assert sorted(index for batch in batches for index in batch) == list(range(len(durations_s)))
    over = [batch for batch in batches if len(batch) > 1 and padded_s(batch, durations_s) > max_seconds * (1 + 1e-9)]
    if over:  # all were single clips, and too many
        assert max(map(len, batches)) <= num_processes
        assert len(batches) > len(durations_s) - num_processes


def test_batches_that_do_not_divide_among_processes_are_halved():
    durations_s = [4.0] * 2 + [1.0] * 8
    assert len(sampler(durations_s, 8.0)) == 2
    batches = sampler(durations_s, 8.0, num_processes=4).make_batches(0)
    assert sorted(map(len, batches)) == [2, 2, 2, 4]


def test_single_clips_that_do_not_divide_among_processes_are_joined():
    batches = sampler([5.0, 6.0, 7.0, 8.0, 9.0], 9.0, num_processes=2).make_batches(0)
    assert sorted(map(sorted, batches)) == [[0, 1], [2], [3], [4]]


def test_even_out_leaves_batches_that_are_enough():
    batches = [[0, 1], [2]]
    even_out(batches, 2, np.array([1.0, 1.0, 1.0]))
    assert sorted(batches) == [[0, 1], [2]]


@pytest.mark.parametrize("num_processes", [2, 3])
def test_accelerate_deals_every_clip_to_one_process_and_as_many_batches_to_each(num_processes):
    made = sampler(speech_like(500), 100.0, num_processes=num_processes)
    shards = [BatchSamplerShard(made, num_processes, process) for process in range(num_processes)]
    dealt = [list(shard) for shard in shards]
    assert {len(batches) for batches in dealt} == {len(shard) for shard in shards} == {len(made) // num_processes}
    assert sorted(index for batches in dealt for batch in batches for index in batch) == list(range(500))


def test_order_depends_on_seed_and_epoch_only():
    durations_s = speech_like(300)
    first = sampler(durations_s, 60.0, seed=1).make_batches(0)
    np.random.seed(5)
    assert sampler(durations_s, 60.0, seed=1).make_batches(0) == first
    others = [sampler(durations_s, 60.0, seed=seed).make_batches(epoch) for seed, epoch in ((1, 1), (2, 0))]
    assert first not in others
    assert others[0] != others[1]
    assert {len(batches) for batches in (first, *others)} == {len(first)}


def test_order_mixes_long_and_short_batches_and_who_is_with_whom():
    durations_s = speech_like(3_000)
    made = sampler(durations_s, 100.0)
    one, other = made.make_batches(0), made.make_batches(1)
    longest = [max(durations_s[batch]) for batch in one]
    assert abs(np.corrcoef(longest, np.arange(len(one)))[0, 1]) < 0.2
    assert max(longest) == longest[0] == max(durations_s)
    shared = {frozenset(batch) for batch in one} & {frozenset(batch) for batch in other}
    assert len(shared) < 0.1 * len(one)


def test_sampler_asks_for_the_epoch_when_it_begins():
    epochs = iter([4, 7])
    made = sampler(speech_like(200), 60.0, find_epoch=lambda: next(epochs))
    assert list(made) == made.make_batches(4)
    assert list(made) == made.make_batches(7)


def test_sampler_skipping_batches_goes_on_in_the_same_epoch():
    made = sampler(speech_like(200), 60.0, find_epoch=lambda: 3)
    assert list(SkipBatchSampler(made, 5)) == made.make_batches(3)[5:]


def test_cut_buckets_hold_like_durations_and_whole_batches():
    durations_s = speech_like(2_000)
    buckets = cut_buckets(durations_s, 100.0)
    assert sorted(index for clips, _ in buckets for index in clips) == list(range(2_000))
    for clips, size in buckets:
        bucket_s = durations_s[clips]
        assert size == int(100 / bucket_s.max())
        assert len(clips) <= size or bucket_s.min() >= (1 - BUCKET_WIDTH) * bucket_s.max()
    assert all(len(clips) % size == 0 for clips, size in buckets[:-1])


def test_padding_share_by_hand():
    assert padding_share([[0, 1], [2]], [1.0, 3.0, 2.0]) == pytest.approx(2 / 8)
    assert padding_share([[0], [1]], [1.0, 3.0]) == 0.0


@pytest.mark.parametrize(("clips", "max_seconds"), [(1_000, 100.0), (10_000, 320.0)])
def test_padding_of_durations_like_librispeechs_is_5_percent_at_most(clips, max_seconds):
    durations_s = speech_like(clips)
    for epoch in range(3):
        assert padding_share(sampler(durations_s, max_seconds).make_batches(epoch), durations_s) <= 0.05


@pytest.mark.speech
@pytest.mark.parametrize(
    ("corpus", "max_seconds"), [("an4", 24), ("an4", 100), ("librispeech_4h", 100), ("librispeech_4h", 320)]
)
@pytest.mark.parametrize("speeds", [(1.0,), SPEEDS])
def test_padding_of_real_speech_is_5_percent_at_most(speech_folder, corpus, max_seconds, speeds):
    with (speech_folder / corpus / "train" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        recorded_s = [float(row["duration"]) for row in csv.DictReader(file)]
    durations_s = [seconds / speed for speed in speeds for seconds in recorded_s]
    for epoch in range(3):
        batches = sampler(durations_s, max_seconds, num_processes=2).make_batches(epoch)
        assert padding_share(batches, durations_s) <= 0.05


@pytest.mark.parametrize(
    ("durations_s", "max_seconds", "options", "message"),
    [
        ([1.0], 0.0, {}, "a batch of 0.0 s and None clips at most holds nothing; raise the limit"),
        ([1.0], math.nan, {}, "a batch of nan s"),
        ([1.0], 5.0, {"max_clips": 0}, "0 clips at most holds nothing"),
        ([1.0, math.nan, -1.0], 5.0, {}, r"2 clips have no duration above 0 s, the first is clip 1 with nan s; drop"),
        ([1.0], 5.0, {"num_processes": 2}, "1 clips cannot be shared by 2 processes; use fewer processes"),
        ([], 5.0, {}, "0 clips cannot be shared by 1 processes"),
    ],
)
def test_sampler_of_what_makes_no_batches_raises(durations_s, max_seconds, options, message):
    with pytest.raises(ValueError, match=message):
        sampler(durations_s, max_seconds, **options)
