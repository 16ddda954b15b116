"""Batches by seconds: clips of like duration, as many as fit a budget, the same number of batches on every process.

Clips are sorted by duration and cut into buckets within which durations differ little. A bucket's longest clip says
how many fit a batch; in each epoch the bucket's clips are dealt anew and all batches are shuffled. How many batches
there are depends on the durations alone, so an epoch always has the same number of updates.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

# Clips that are dealt anew together differ by so much at most, and so does their padding; wider mixes more.
BUCKET_WIDTH = 0.08


class SecondsBatchSampler(Sampler[list[int]]):
    """Batches of at most so many seconds, padding included: the longest clip's seconds times the number of clips.

    Accelerate deals the batches out as it does those of any batch sampler; their number is a multiple of the number of
    processes, so that it neither repeats nor drops one. To reach that, the largest batches are halved. Only where
    there is nothing to halve are the smallest joined, which is the one case of a batch beyond its limits, but for a
    clip that alone is longer than the budget: that is a batch by itself.

    The batch of the longest clip comes first: if memory runs out, then at once.

    All clips of an update weigh alike (`SpeechTrainer.compute_loss`), and so do all updates, however many clips they
    have. So a clip weighs about as much as it is long, while batches of a fixed number of clips weigh all clips alike.

    Args:
        durations_s: Seconds of each clip as the model hears it, so after a change of speed.
        max_seconds: The budget.
        find_epoch: Says which epoch begins. It is asked rather than told, because a data loader that skips batches of
            a resumed epoch tells its sampler nothing.
        seed: The order of an epoch depends on it and on the epoch only.
        max_clips: Clips in a batch at most.
        num_processes: Processes that share the batches.
        draw: Says which clips an epoch has, as many as there are; every clip once by default. Where these make more
            batches than those of epoch 0, as many as are too many are left out at random.

    Raises:
        ValueError: A limit is not positive, a duration is not a positive number, or there are fewer clips than
            processes.
    """

    def __init__(
        self,
        durations_s: Sequence[float],
        max_seconds: float,
        *,
        find_epoch: Callable[[], int],
        seed: int = 0,
        max_clips: int | None = None,
        num_processes: int = 1,
        draw: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.durations_s = np.asarray(durations_s, dtype=np.float64)  # (clips,)
        self.find_epoch, self.seed, self.num_processes = find_epoch, seed, num_processes
        if not max_seconds > 0 or (max_clips is not None and max_clips < 1):
            raise ValueError(
                f"a batch of {max_seconds} s and {max_clips} clips at most holds nothing; raise the limit"
            )
        if wrong := np.flatnonzero(~((self.durations_s > 0) & np.isfinite(self.durations_s))).tolist():
            raise ValueError(
                f"{len(wrong)} clips have no duration above 0 s, the first is clip {wrong[0]} with "
                f"{self.durations_s[wrong[0]]} s; drop them (filter_corpus does)"
            )
        if len(self.durations_s) < num_processes:
            raise ValueError(
                f"{len(self.durations_s)} clips cannot be shared by {num_processes} processes; use fewer processes"
            )
        self.max_seconds, self.max_clips, self.draw = max_seconds, max_clips, draw
        buckets = cut_buckets(self.durations_s[self._find_clips(0)], max_seconds, max_clips)
        self._cut = sum(math.ceil(len(clips) / size) for clips, size in buckets)  # batches before they are evened

    def __len__(self) -> int:
        missing = -self._cut % self.num_processes
        can_halve = self._cut + missing <= len(self.durations_s)
        return self._cut + missing if can_halve else self._cut - self._cut % self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.make_batches(self.find_epoch()))

    def _find_clips(self, epoch: int) -> np.ndarray:
        return np.arange(len(self.durations_s)) if self.draw is None else self.draw(epoch)

    def make_batches(self, epoch: int) -> list[list[int]]:
        """Deal the clips of an epoch.

        Args:
            epoch: Number of the epoch, from 0.

        Returns:
            Indices of clips, one list for each batch, those of all processes in turn.
        """
        random = np.random.default_rng((self.seed, epoch))
        epoch_clips = self._find_clips(epoch)
        durations_s = self.durations_s[epoch_clips]
        buckets = cut_buckets(durations_s, self.max_seconds, self.max_clips)
        dealt = [(random.permutation(clips).tolist(), size) for clips, size in buckets]
        batches = [clips[start : start + size] for clips, size in dealt for start in range(0, len(clips), size)]
        even_out(batches, len(self) if self.draw is None else max(len(self), len(batches)), durations_s)
        random.shuffle(batches)
        longest = int(durations_s.argmax())
        first = next(index for index, batch in enumerate(batches) if longest in batch)
        batches[0], batches[first] = batches[first], batches[0]
        return [epoch_clips[batch].tolist() for batch in batches[: len(self)]]


def cut_buckets(
    durations_s: np.ndarray, max_seconds: float, max_clips: int | None = None
) -> list[tuple[np.ndarray, int]]:
    """Cut clips, the longest first, into buckets of whole batches; only the last bucket's last may not be full.

    Args:
        durations_s: Seconds of each clip, `(clips,)`.
        max_seconds: Seconds of a batch, padding included.
        max_clips: Clips in a batch at most.

    Returns:
        For each bucket the indices of its clips, and how many make a batch. A bucket's durations differ by
        `BUCKET_WIDTH` at most, unless it is a single batch.
    """
    order = np.argsort(-durations_s, kind="stable")
    falling_s = durations_s[order]
    buckets = []
    start = 0
    while start < len(order):
        size = max(1, int(min(max_seconds / falling_s[start], len(order))))
        size = size if max_clips is None else min(size, max_clips)
        shortest_s = (1 - BUCKET_WIDTH) * falling_s[start]
        alike = int(np.searchsorted(-falling_s, -shortest_s, side="right")) - start
        stop = start + max(1, alike // size) * size
        buckets.append((order[start:stop], size))
        start = stop
    return buckets


def even_out(batches: list[list[int]], count: int, durations_s: np.ndarray) -> None:
    """Halve the batches of most clips, or join those of fewest seconds, in place, until there are `count`."""
    by_size = [(-len(batch), batch) for batch in batches]
    heapq.heapify(by_size)
    while len(by_size) < count:
        _, batch = heapq.heappop(by_size)
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]):
            heapq.heappush(by_size, (-len(part), part))
    by_seconds = [(float(durations_s[batch].sum()), batch) for _, batch in by_size]
    heapq.heapify(by_seconds)
    while len(by_seconds) > count:
        (one_s, one), (other_s, other) = heapq.heappop(by_seconds), heapq.heappop(by_seconds)
        heapq.heappush(by_seconds, (one_s + other_s, one + other))
    batches[:] = [batch for _, batch in by_seconds]


def padding_share(batches: Sequence[Sequence[int]], durations_s: Sequence[float]) -> float:
    """Share of the seconds in padded batches that is padding: `1 - sum(durations) / sum(longest * clips)`.

    Args:
        batches: Indices of clips, for each batch.
        durations_s: Seconds of each clip.
    """
    durations_s = np.asarray(durations_s, dtype=np.float64)
    padded_s = sum(len(batch) * durations_s[list(batch)].max() for batch in batches)
    return 1 - sum(durations_s[list(batch)].sum() for batch in batches) / padded_s
