"""Bootstrap intervals against a loop written from the paper, scipy, and known coverage."""

import numpy as np
import pytest
from scipy import stats

from hf_speechft.scoring import bootstrap
from hf_speechft.scoring.bootstrap import bootstrap_interval, paired_bootstrap
from hf_speechft.scoring.metrics import ErrorCounts, total


def simulate(utterances, seed, rate=0.2, words=(2, 12)):
    """Return per-utterance counts in which each word is wrong with the rate given."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(*words, size=utterances)
    errors = generator.binomial(lengths, rate)
    return [ErrorCounts(hits=int(n - e), substitutions=int(e)) for n, e in zip(lengths, errors, strict=True)]


def corpus_rate(counts):
    return sum(count.errors for count in counts) / sum(count.reference_length for count in counts)


def test_bootstrap_interval_matches_loop_over_drawn_corpora():
    counts = simulate(40, seed=1)
    generator = np.random.default_rng(7)
    rates = []
    for _ in range(300):
        drawn = [counts[index] for index in generator.integers(40, size=40)]
        rates.append(corpus_rate(drawn))
    expected = np.percentile(rates, [5, 95])
    assert bootstrap_interval(counts, resamples=300, confidence=0.9, seed=7) == pytest.approx(expected)


def test_bootstrap_interval_matches_scipy():
    counts = simulate(130, seed=2)
    errors = np.array([count.errors for count in counts])
    lengths = np.array([count.reference_length for count in counts])
    expected = stats.bootstrap(
        (errors, lengths),
        lambda e, n, axis=-1: e.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert bootstrap_interval(counts, resamples=9999) == pytest.approx(expected, abs=0.003)


def test_bootstrap_interval_covers_true_rate_as_often_as_asked():
    covered = sum(
        low <= 0.2 <= high
        for low, high in (bootstrap_interval(simulate(100, seed), resamples=400, seed=seed) for seed in range(300))
    )
    # The standard deviation of this share is 1.3 %; the percentile interval is a little too narrow at 100 utterances.
    assert 0.90 <= covered / 300 <= 0.985


def test_bootstrap_interval_contains_corpus_rate():
    counts = simulate(130, seed=3)
    low, high = bootstrap_interval(counts)
    assert low < total(counts).rate < high


def test_bootstrap_interval_same_seed_round_trips():
    counts = simulate(50, seed=4)
    assert bootstrap_interval(counts, seed=5) == bootstrap_interval(counts, seed=5)
    assert bootstrap_interval(counts, seed=5) != bootstrap_interval(counts, seed=6)


def test_bootstrap_interval_is_invariant_to_chunk_size(monkeypatch):
    counts = simulate(50, seed=4)
    whole = bootstrap_interval(counts)
    monkeypatch.setattr(bootstrap, "MAX_DRAWS_IN_MEMORY", 333)
    assert bootstrap_interval(counts) == whole


def test_bootstrap_interval_one_utterance_is_its_rate():
    assert bootstrap_interval([ErrorCounts(hits=3, deletions=1)]) == (0.25, 0.25)


def test_bootstrap_interval_empty_references_counts_insertions():
    assert bootstrap_interval([ErrorCounts(insertions=2)]) == (2.0, 2.0)
    assert bootstrap_interval([ErrorCounts()] * 3) == (0.0, 0.0)


def test_bootstrap_interval_narrows_with_utterances():
    few, many = (bootstrap_interval(simulate(n, seed=0)) for n in (50, 5000))
    assert (many.high - many.low) == pytest.approx((few.high - few.low) / 10, rel=0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "resamples is 0; at least 1 is needed"),
        ({"confidence": 95}, "confidence is 95; give a probability between 0 and 1"),
    ],
)
def test_bootstrap_interval_bad_option_raises(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval([ErrorCounts(hits=1)], **options)


def test_bootstrap_interval_no_utterances_raises():
    with pytest.raises(ValueError, match="no utterances were counted"):
        bootstrap_interval([])


def test_paired_bootstrap_matches_loop_over_drawn_corpora():
    a = [ErrorCounts(hits=5 - i % 3, deletions=i % 3) for i in range(30)]
    b = [ErrorCounts(hits=5 - i % 2, deletions=i % 2) for i in range(30)]
    generator = np.random.default_rng(0)
    differences = []
    for _ in range(500):
        drawn = generator.integers(30, size=30)
        differences.append(corpus_rate([a[i] for i in drawn]) - corpus_rate([b[i] for i in drawn]))
    compared = paired_bootstrap(a, b, resamples=500)
    assert compared.difference == pytest.approx(corpus_rate(a) - corpus_rate(b))
    assert compared.interval == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    assert compared.probability_of_improvement == pytest.approx(np.mean(np.array(differences) > 0))


def test_paired_bootstrap_same_system_is_no_difference():
    counts = simulate(60, seed=0)
    compared = paired_bootstrap(counts, counts)
    assert compared.difference == 0
    assert compared.interval == (0, 0)
    assert compared.p_value == 1
    assert compared.probability_of_improvement == 0


def test_paired_bootstrap_swapped_systems_mirror():
    a, b = (
        [ErrorCounts(hits=10 - errors, deletions=errors) for errors in np.random.default_rng(s).integers(4, size=80)]
        for s in (0, 1)
    )
    forward, backward = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert forward.difference == pytest.approx(-backward.difference)
    assert forward.interval == pytest.approx((-backward.interval.high, -backward.interval.low))
    assert forward.p_value == backward.p_value


def test_paired_bootstrap_consistent_gain_is_significant():
    worse = [ErrorCounts(hits=8, deletions=2)] * 100
    better = [ErrorCounts(hits=9, deletions=1)] * 100
    compared = paired_bootstrap(worse, better)
    assert compared.difference == pytest.approx(0.1)
    assert compared.interval == pytest.approx((0.1, 0.1))
    assert compared.p_value == pytest.approx(2 / 1001)
    assert compared.probability_of_improvement == 1


def test_paired_bootstrap_equal_systems_reject_as_often_as_asked():
    def pair(seed):
        generator = np.random.default_rng(seed)
        return (
            [ErrorCounts(hits=10 - int(e), deletions=int(e)) for e in generator.binomial(10, 0.2, size=100)]
            for _ in range(2)
        )

    rejected = sum(paired_bootstrap(*pair(seed), resamples=400, seed=seed).p_value < 0.05 for seed in range(300))
    assert 0.015 <= rejected / 300 <= 0.10


def test_paired_bootstrap_different_references_raises():
    with pytest.raises(ValueError, match="utterance 1 has 2 reference units for system a and 3 for system b"):
        paired_bootstrap([ErrorCounts(hits=1), ErrorCounts(hits=2)], [ErrorCounts(hits=1), ErrorCounts(hits=3)])


def test_paired_bootstrap_different_numbers_raises():
    with pytest.raises(ValueError, match="system a has 1 utterances and system b 2"):
        paired_bootstrap([ErrorCounts(hits=1)], [ErrorCounts(hits=1)] * 2)
