import logging
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_speechft.data.splits import FRACTIONS, split_indices


def corpus(speakers, utterances_each):
    ids = [f"s{speaker}-u{number}" for speaker in range(speakers) for number in range(utterances_each)]
    return ids, [name.split("-")[0] for name in ids], [1.0] * len(ids)


def named_parts(ids, speakers, sizes, **options):
    parts = split_indices(ids, speakers, sizes, FRACTIONS, **options)
    return {part: {ids[index] for index in indices} for part, indices in parts.items()}


def test_split_indices_ten_equal_speakers_gives_eight_one_one():
    parts = split_indices(*corpus(10, 5), FRACTIONS)
    assert {name: len(indices) for name, indices in parts.items()} == {"train": 40, "validation": 5, "test": 5}


def test_split_indices_speakers_are_in_one_part_only():
    ids, speakers, sizes = corpus(23, 7)
    parts = split_indices(ids, speakers, sizes, FRACTIONS)
    voices = [{speakers[index] for index in indices} for indices in parts.values()]
    assert sum(map(len, voices)) == len(set.union(*voices)) == 23
    assert sorted(index for indices in parts.values() for index in indices) == list(range(len(ids)))


def test_split_indices_unequal_speakers_come_near_to_the_fractions():
    lengths = [300, 200, 150, 100, 80, 50, 40, 30, 20, 10, 10, 10]
    ids = [f"u{number}" for number in range(len(lengths))]
    parts = split_indices(ids, ids, [float(length) for length in lengths], FRACTIONS)
    for name, fraction in FRACTIONS.items():
        assert sum(lengths[index] for index in parts[name]) / sum(lengths) == pytest.approx(fraction, abs=0.02)


@settings(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_split_indices_is_invariant_to_the_order_of_rows(random):
    ids, speakers, sizes = corpus(12, 4)
    sizes = [1.0 + (index * 7 % 5) / 3 for index in range(len(ids))]
    order = list(range(len(ids)))
    random.shuffle(order)
    shuffled = [[column[index] for index in order] for column in (ids, speakers, sizes)]
    assert named_parts(*shuffled) == named_parts(ids, speakers, sizes)


def test_split_indices_known_corpus_round_trips():
    # Written down so that a change of Python, of the machine or of the code cannot pass unseen.
    parts = split_indices([f"u{number}" for number in range(10)], [""] * 10, [1.0] * 10, FRACTIONS)
    assert parts["validation"] == [6]
    assert parts["test"] == [8]


def test_split_indices_other_seed_gives_other_parts():
    assert named_parts(*corpus(30, 2), seed=1) != named_parts(*corpus(30, 2), seed=0)
    assert named_parts(*corpus(30, 2), seed=1) == named_parts(*corpus(30, 2), seed=1)


@pytest.mark.parametrize("speakers", [3, 4, 5])
def test_split_indices_few_speakers_leave_no_part_empty(speakers):
    parts = split_indices(*corpus(speakers, 3), FRACTIONS)
    assert all(parts.values())


def test_split_indices_two_speakers_are_cut_by_utterance_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        parts = split_indices(*corpus(2, 20), FRACTIONS)
    assert {name: len(indices) for name, indices in parts.items()} == {"train": 32, "validation": 4, "test": 4}
    assert "only 2 speaker(s) for the parts train, validation, test: they are cut by utterance" in caplog.text


def test_split_indices_no_speakers_are_cut_by_utterance_which_is_said(caplog):
    caplog.set_level(logging.INFO, "hf_speechft.data.splits")
    parts = split_indices([str(number) for number in range(20)], [""] * 20, [1.0] * 20, FRACTIONS)
    assert {name: len(indices) for name, indices in parts.items()} == {"train": 16, "validation": 2, "test": 2}
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "no speaker is known for the parts train, validation, test: they are cut by utterance" in caplog.text


def test_split_indices_speakers_that_miss_the_shares_by_far_are_said(caplog):
    split_indices(*corpus(10, 2), FRACTIONS)
    assert not caplog.records
    split_indices(*corpus(3, 10), FRACTIONS)
    assert "train gets 33 % of the speech and not 80 %, since no speaker is in two parts; give more" in caplog.text


@pytest.mark.parametrize("size", [0.0, math.nan])
def test_split_indices_unknown_lengths_count_utterances(size):
    ids = [str(number) for number in range(20)]
    parts = split_indices(ids, [""] * 20, [size] * 20, FRACTIONS)
    assert {name: len(indices) for name, indices in parts.items()} == {"train": 16, "validation": 2, "test": 2}


def test_split_indices_fewer_utterances_than_parts_raises():
    with pytest.raises(ValueError, match=r"2 utterances cannot be cut into 3 parts \(train, validation, test\)"):
        split_indices(["a", "b"], ["", ""], [1.0, 1.0], FRACTIONS)


def test_split_indices_other_fractions_are_respected():
    parts = split_indices([str(n) for n in range(50)], [""] * 50, [2.0] * 50, {"train": 0.9, "validation": 0.1})
    assert {name: len(indices) for name, indices in parts.items()} == {"train": 45, "validation": 5}
