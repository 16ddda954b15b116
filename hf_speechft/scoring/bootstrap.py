"""How sure an error rate is: percentile bootstrap over utterances.

Words within an utterance err together (one speaker, one noise), so whole utterances are drawn with replacement
and the rate of each drawn corpus is its errors over its reference length. Comparing two systems draws the same
utterances for both, which removes what is hard for both and so finds smaller differences.

Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation",
ICASSP 2004, sections 2 and 3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .metrics import ErrorCounts

# Drawn indices held at once: 4 million int64 are 32 MB, whatever the size of the corpus.
MAX_DRAWS_IN_MEMORY = 4_000_000


class Interval(NamedTuple):
    """Lower and upper bound of a confidence interval, fractions."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """Difference of two systems on the same utterances, `rate(a) - rate(b)`: positive means that b is better."""

    difference: float
    interval: Interval
    p_value: float
    probability_of_improvement: float


def bootstrap_interval(
    counts: Sequence[ErrorCounts], *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Give the interval in which the corpus error rate lies with the confidence asked.

    Args:
        counts: one entry per utterance, as `count_errors` returns them.
        resamples: number of corpora drawn.
        confidence: probability between 0 and 1 that the interval covers the rate.
        seed: the same seed gives the same interval.

    Returns:
        The `(1 - confidence) / 2` and `(1 + confidence) / 2` quantiles of the drawn corpora's rates.

    Raises:
        ValueError: if there are no utterances or an option is out of range.

    Source: Bisani and Ney 2004, section 2.
    """
    _check(len(counts), resamples, confidence)
    errors, lengths = _arrays(counts)
    rates = np.concatenate([_rates(errors, lengths, drawn) for drawn in _draws(len(counts), resamples, seed)])
    return _quantiles(rates, confidence)


def paired_bootstrap(
    counts_a: Sequence[ErrorCounts],
    counts_b: Sequence[ErrorCounts],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Compare two systems that recognised the same utterances.

    The two-sided p-value is twice the share of drawn corpora on the less frequent side of zero (one added to
    both counts so that it is never 0), which agrees with the interval: below `1 - confidence` when the interval
    leaves out zero.

    Args:
        counts_a: counts of system a, one entry per utterance.
        counts_b: counts of system b for the same utterances in the same order.
        resamples: number of corpora drawn.
        confidence: probability that the interval covers the difference.
        seed: the same seed gives the same result.

    Returns:
        The difference `rate(a) - rate(b)`, its interval, the p-value, and the share of drawn corpora in which b
        makes fewer errors than a.

    Raises:
        ValueError: if the two are not counts of the same references, or an option is out of range.

    Source: Bisani and Ney 2004, section 3; Davison and Hinkley, "Bootstrap Methods and their Application",
    1997, section 4.2 (the added one).
    """
    _check(len(counts_a), resamples, confidence)
    _check_paired(counts_a, counts_b)
    errors_a, lengths = _arrays(counts_a)
    errors_b, _ = _arrays(counts_b)
    differences = np.concatenate(
        [
            _rates(errors_a, lengths, drawn) - _rates(errors_b, lengths, drawn)
            for drawn in _draws(len(counts_a), resamples, seed)
        ]
    )
    rarer_side = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    everything = np.arange(len(counts_a))[None]
    return PairedComparison(
        difference=float((_rates(errors_a, lengths, everything) - _rates(errors_b, lengths, everything))[0]),
        interval=_quantiles(differences, confidence),
        p_value=min(1.0, 2 * (rarer_side + 1) / (resamples + 1)),
        probability_of_improvement=float((differences > 0).mean()),
    )


def _check(utterances: int, resamples: int, confidence: float) -> None:
    """Refuse options that have no meaning."""
    if utterances == 0:
        raise ValueError("no utterances were counted; a confidence interval needs at least one")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; at least 1 is needed, 1000 is usual")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a probability between 0 and 1 such as 0.95")


def _check_paired(counts_a: Sequence[ErrorCounts], counts_b: Sequence[ErrorCounts]) -> None:
    """Refuse two systems that were not scored on the same references."""
    if len(counts_a) != len(counts_b):
        raise ValueError(
            f"system a has {len(counts_a)} utterances and system b {len(counts_b)}; score both on the same ones"
        )
    for index, (a, b) in enumerate(zip(counts_a, counts_b, strict=True)):
        if a.reference_length != b.reference_length:
            raise ValueError(
                f"utterance {index} has {a.reference_length} reference units for system a and "
                f"{b.reference_length} for system b; score both on the same utterances in the same order"
            )


def _arrays(counts: Sequence[ErrorCounts]) -> tuple[np.ndarray, np.ndarray]:
    """Return errors and reference lengths, each `(utterances,)`."""
    errors = np.array([count.errors for count in counts], dtype=np.int64)
    lengths = np.array([count.reference_length for count in counts], dtype=np.int64)
    return errors, lengths


def _draws(utterances: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield drawn utterance indices `(some resamples, utterances)` until all resamples are drawn."""
    generator = np.random.default_rng(seed)
    rows = max(1, MAX_DRAWS_IN_MEMORY // utterances)
    for start in range(0, resamples, rows):
        yield generator.integers(utterances, size=(min(rows, resamples - start), utterances))


def _rates(errors: np.ndarray, lengths: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return the error rate of each drawn corpus, `(resamples,)`."""
    drawn_errors = errors[drawn].sum(axis=1)  # (resamples,)
    drawn_lengths = lengths[drawn].sum(axis=1)  # (resamples,)
    # A corpus of empty references has only insertions, and ErrorCounts.rate is their number.
    return drawn_errors / np.where(drawn_lengths == 0, 1, drawn_lengths)


def _quantiles(values: np.ndarray, confidence: float) -> Interval:
    """Cut the same share off both ends."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))
