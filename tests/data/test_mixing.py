"""Mixes of corpora: their shares, their ends and what is refused."""

from collections import Counter

import pytest
from datasets import Audio, Dataset

from hf_speechft.data.mixing import check_mix, join_corpora, mix_corpora, mix_streams

NAMES = ["data/one", "owner/two"]


def make_split(prefix, clips):
    ids = [f"{prefix}{number}" for number in range(clips)]
    data = Dataset.from_dict({"audio": [f"/{name}.wav" for name in ids], "utterance_id": ids})
    return data.cast_column("audio", Audio(decode=False))


def test_join_corpora_names_the_corpus_and_tells_ids_apart():
    joined = join_corpora([make_split("u", 2), make_split("u", 2)], NAMES)
    assert joined["corpus"][:] == ["one", "one", "two", "two"]
    assert joined["utterance_id"][:] == ["u0", "u1", "two/u0", "two/u1"]
    assert joined[3]["audio"]["path"] == "/u1.wav"


def test_join_corpora_of_equal_last_names_takes_the_whole_names():
    joined = join_corpora([make_split("u", 1), make_split("u", 1)], ["a/speech", "b/speech"])
    assert joined["corpus"][:] == ["a/speech", "b/speech"]


@pytest.mark.parametrize("strategy", ["first_exhausted", "all_exhausted"])
def test_mix_corpora_shares_match_the_weights(strategy):
    joined = join_corpora([make_split("a", 2_000), make_split("b", 1_000)], NAMES)
    mixed = mix_corpora(joined, NAMES, [6, 2], seed=3, stopping_strategy=strategy)
    counts = Counter(mixed["corpus"])
    assert counts["one"] / len(mixed) == pytest.approx(0.75, abs=0.03)  # 2 standard deviations and more


def test_mix_corpora_all_exhausted_has_all_and_first_exhausted_none_twice():
    joined = join_corpora([make_split("a", 300), make_split("b", 20)], NAMES)
    everything = mix_corpora(joined, NAMES, [0.5, 0.5], seed=0, stopping_strategy="all_exhausted")
    assert set(everything["utterance_id"]) == set(joined["utterance_id"])
    assert max(Counter(everything["utterance_id"]).values()) > 10
    once = mix_corpora(joined, NAMES, [0.5, 0.5], seed=0, stopping_strategy="first_exhausted")
    assert max(Counter(once["utterance_id"]).values()) == 1
    assert Counter(once["corpus"])["two"] == 20 or Counter(once["corpus"])["one"] == 300


def test_mix_corpora_depends_on_the_seed_only():
    joined = join_corpora([make_split("a", 50), make_split("b", 50)], NAMES)
    orders = [
        mix_corpora(joined, NAMES, [1, 1], seed=seed, stopping_strategy="first_exhausted")["utterance_id"][:]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_mix_corpora_of_which_one_is_empty_raises():
    joined = join_corpora([make_split("a", 3), make_split("b", 3)], NAMES).select(range(3))
    with pytest.raises(ValueError, match="no utterance of two is left to mix"):
        mix_corpora(joined, NAMES, [1, 1], seed=0, stopping_strategy="all_exhausted")


def test_mix_streams_shares_match_the_weights_in_each_pass():
    streams = [make_split("a", 2_000).to_iterable_dataset(4), make_split("b", 1_000).to_iterable_dataset(2)]
    mixed = mix_streams(streams, [3, 1], seed=5, stopping_strategy="all_exhausted")
    orders = []
    for number in range(2):
        mixed.set_epoch(number)
        orders.append([row["utterance_id"] for row in mixed])
        assert sum(name.startswith("a") for name in orders[-1]) / len(orders[-1]) == pytest.approx(0.75, abs=0.03)
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("weights", "strategy", "message"),
    [
        ([], "all_exhausted", "the weights are none, for the 2 corpora data/one, owner/two; give each one a number"),
        ([1], "all_exhausted", "the weights are 1, for the 2 corpora"),
        ([0.5, -1], "all_exhausted", "the weights are 0.5 -1, .* above 0, the main one's first"),
        ([0.5, float("inf")], "all_exhausted", "the weights are 0.5 inf"),
        ([1, 1], "longest", "the strategy is 'longest'; choose one of first_exhausted, all_exhausted"),
    ],
)
def test_check_mix_refuses_what_cannot_be_meant(weights, strategy, message):
    with pytest.raises(ValueError, match=message):
        check_mix(NAMES, weights, strategy)
    check_mix(NAMES, [1, 3], "first_exhausted")
