"""Several corpora as one training split, each with a share of its own (`datasets.interleave_datasets`).

Which corpus the next utterance comes from is drawn by weight. How long that goes on is the `stopping_strategy`: with
"first_exhausted" until one corpus is used up, so that no utterance comes twice and some don't come at all; with
"all_exhausted" until each was used up once, so that all come, those of small or heavily weighted corpora again and
again. In both cases the shares are the weights, up to chance. A stream then begins its next pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets

STOPPING_STRATEGIES = ("first_exhausted", "all_exhausted")


def check_mix(names: Sequence[str], weights: Sequence[float], stopping_strategy: str) -> None:
    """Refuse weights that cannot be meant.

    Args:
        names: The corpora, the main one first.
        weights: The share of each.
        stopping_strategy: When to stop.

    Raises:
        ValueError: There are more or fewer weights than corpora, one isn't above 0, or the strategy is unknown.
    """
    if len(names) != len(weights) or not all(0 < weight < float("inf") for weight in weights):
        given = " ".join(f"{weight:g}" for weight in weights) or "none"
        raise ValueError(
            f"the weights are {given}, for the {len(names)} corpora {', '.join(names)}; give each one a number above "
            "0, the main one's first"
        )
    if stopping_strategy not in STOPPING_STRATEGIES:
        raise ValueError(f"the strategy is {stopping_strategy!r}; choose one of {', '.join(STOPPING_STRATEGIES)}")


def join_corpora(splits: Sequence[Dataset], names: Sequence[str]) -> Dataset:
    """Put training splits behind each other, the corpus of each utterance in the column `corpus`.

    Args:
        splits: From `load_corpus`, the main one first.
        names: Of the corpora: paths or Hub ids.

    Returns:
        All utterances. The ids of those of other corpora than the main one begin with `<corpus>/`.
    """
    joined = []
    for index, (split, name) in enumerate(zip(splits, _short_names(names), strict=True)):
        if index:
            ids = [f"{name}/{utterance_id}" for utterance_id in split["utterance_id"]]
            split = split.remove_columns("utterance_id").add_column("utterance_id", ids)
        joined.append(split.add_column("corpus", [name] * len(split)))
    return concatenate_datasets(joined)


def mix_corpora(
    joined: Dataset, names: Sequence[str], weights: Sequence[float], *, seed: int, stopping_strategy: str
) -> Dataset:
    """Draw from the corpora of a joined split by weight.

    Args:
        joined: From `join_corpora`; it may have been filtered since.
        names: As for `join_corpora`.
        weights: The share of each; they need not sum to 1.
        seed: Of the draws.
        stopping_strategy: "first_exhausted" or "all_exhausted".

    Returns:
        Utterances in the drawn order, some more than once.

    Raises:
        ValueError: A corpus has no utterance left.
    """
    of_corpus: dict[str, list[int]] = {name: [] for name in _short_names(names)}
    for index, corpus in enumerate(joined["corpus"]):
        of_corpus[corpus].append(index)
    empty = [name for name, indices in of_corpus.items() if not indices]
    if empty:
        raise ValueError(f"no utterance of {', '.join(empty)} is left to mix; leave it out or relax the limits")
    # In an order of their own, for a corpus that is used up first is cut off where the other ends.
    parts = [joined.select(indices).shuffle(seed=seed) for indices in of_corpus.values()]
    return interleave_datasets(
        parts, probabilities=_normalize(weights), seed=seed, stopping_strategy=stopping_strategy
    )


def mix_streams(
    streams: Sequence[IterableDataset], weights: Sequence[float], *, seed: int, stopping_strategy: str
) -> IterableDataset:
    """Draw from streams by weight, as `mix_corpora` does.

    Workers share the parts of the mix, which has as many as the stream with the fewest.

    Args:
        streams: From `stream_corpus` and `stream_training_split`.
        weights: The share of each; they need not sum to 1.
        seed: Of the draws; they are others in each pass.
        stopping_strategy: What ends a pass: "first_exhausted" or "all_exhausted".
    """
    return interleave_datasets(
        list(streams), probabilities=_normalize(weights), seed=seed, stopping_strategy=stopping_strategy
    )


def _normalize(weights: Sequence[float]) -> list[float]:
    return [weight / sum(weights) for weight in weights]


def _short_names(names: Sequence[str]) -> list[str]:
    """Last parts of paths or ids; the whole where two would be the same."""
    short = [Path(name).name or str(name) for name in names]
    return [str(name) if short.count(one) > 1 else one for one, name in zip(short, names, strict=True)]
