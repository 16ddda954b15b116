"""Cut a corpus into training, validation and test parts, deterministically and with no speaker in two of them.

The result depends on the names of speakers and utterances and on the seed, never on the order of files: every random
choice is a hash of a name, which is the same on every machine and in every version of Python.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Sequence

logger = logging.getLogger(__name__)

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
_HASHES = 4_000  # work spent on looking for a good assignment: many tries for few groups, one try for many


def split_indices(
    utterance_ids: Sequence[str],
    speaker_ids: Sequence[str],
    sizes: Sequence[float],
    fractions: dict[str, float],
    seed: int = 0,
) -> dict[str, list[int]]:
    """Assign whole speakers to parts so that the parts' sizes come as near to `fractions` as they can.

    Where there are fewer speakers than parts, or no speaker is known, utterances are assigned one by one and a
    message says so, as where whole speakers miss the shares by far.

    Args:
        utterance_ids: Name of each utterance, unique.
        speaker_ids: Speaker of each utterance, "" if unknown. Utterances of unknown speakers stay together.
        sizes: Seconds of each utterance; NaN counts as nothing.
        fractions: Share of each part, summing to 1.
        seed: Another seed gives another assignment.

    Returns:
        For each part the sorted indices of its utterances; no part is empty.

    Raises:
        ValueError: There are fewer utterances than parts.
    """
    if len(utterance_ids) < len(fractions):
        raise ValueError(
            f"{len(utterance_ids)} utterances cannot be cut into {len(fractions)} parts ({', '.join(fractions)}); "
            f"give at least {len(fractions)} utterances, or splits of your own"
        )
    speakers = set(speaker_ids)
    groups = list(speaker_ids)
    if len(speakers) < len(fractions):
        groups = list(utterance_ids)
        known = f"only {len(speakers)} speaker(s)" if any(speakers) else "no speaker is known"
        logger.log(
            logging.WARNING if any(speakers) else logging.INFO,
            "%s for the parts %s: they are cut by utterance, so that the same voice may be heard in training and in "
            "the evaluation",
            *(known, ", ".join(fractions)),
        )
    group_sizes = _group_sizes(groups, sizes)
    part_of_group = _assign_groups(group_sizes, fractions, seed)
    _warn_of_missed_shares(part_of_group, group_sizes, fractions)
    parts: dict[str, list[int]] = {name: [] for name in fractions}
    for index, group in enumerate(groups):
        parts[part_of_group[group]].append(index)
    return parts


def _group_sizes(groups: Sequence[str], sizes: Sequence[float]) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for group, size in zip(groups, sizes, strict=True):
        totals[group] += 0.0 if math.isnan(size) else size
    if not sum(totals.values()):  # nothing could be read, or lengths aren't known: count utterances
        return dict.fromkeys(totals, 1.0)
    return {group: math.fsum([size]) for group, size in totals.items()}


def _assign_groups(sizes: dict[str, float], fractions: dict[str, float], seed: int) -> dict[str, str]:
    """Try several orders and keep the assignment that misses the wanted shares least."""
    tries = max(1, _HASHES // len(sizes))
    candidates = (_fill(_shuffled(sizes, f"{seed}/{attempt}"), sizes, fractions) for attempt in range(tries))
    return min(candidates, key=lambda assignment: _miss(assignment, sizes, fractions))


def _shuffled(names: dict[str, float], salt: str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}/{name}".encode()).digest())


def _fill(order: list[str], sizes: dict[str, float], fractions: dict[str, float]) -> dict[str, str]:
    """Give each group to the part that lacks the largest share of what it should have; empty parts come first."""
    total = sum(sizes[name] for name in sorted(sizes))
    filled = dict.fromkeys(fractions, 0.0)
    empty = list(fractions)
    assignment = {}
    for group in order:
        part = empty.pop(0) if empty else max(filled, key=lambda name: 1 - filled[name] / (fractions[name] * total))
        assignment[group] = part
        filled[part] += sizes[group]
    return assignment


def _warn_of_missed_shares(assignment: dict[str, str], sizes: dict[str, float], fractions: dict[str, float]) -> None:
    """Say where whole speakers leave the largest part less than half of what it should have."""
    largest = max(fractions, key=fractions.__getitem__)
    share = sum(sizes[name] for name, part in assignment.items() if part == largest) / sum(sizes.values())
    if share < fractions[largest] / 2:
        logger.warning(
            "%s gets %.0f %% of the speech and not %.0f %%, since no speaker is in two parts; give more speakers, or "
            "splits of your own",
            *(largest, 100 * share, 100 * fractions[largest]),
        )


def _miss(assignment: dict[str, str], sizes: dict[str, float], fractions: dict[str, float]) -> float:
    filled = dict.fromkeys(fractions, 0.0)
    for group in sorted(assignment):
        filled[assignment[group]] += sizes[group]
    total = sum(filled.values())
    return sum(abs(filled[part] / total - share) for part, share in fractions.items())
