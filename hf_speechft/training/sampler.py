"""The order in which an epoch's clips come where a batch has so many clips (`data/batching.py`: so many seconds)."""

from collections.abc import Callable, Iterator, Sequence

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class EpochSampler(LengthGroupedSampler):
    """Like lengths in a batch, batches at random, in an order that a run resumed within an epoch finds again.

    The Trainer's own draws from torch's global generator, whose state at the epoch's start no checkpoint holds, and
    goes from long batches to short ones again and again. The longest batch stays first: if memory runs out, then at
    once. A last batch that is not full stays last.

    Args:
        batch_size: Clips in a batch.
        lengths: Of each clip.
        find_seed: Says the seed of the epoch that begins.
        draw: Says which clips that epoch has, as many as there are; every clip once by default.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        lengths: list[float],
        find_seed: Callable[[], int],
        draw: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.find_seed, self.draw, self.clip_lengths = find_seed, draw, lengths

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.find_seed())
        clips = range(len(self.clip_lengths)) if self.draw is None else self.draw()
        self.lengths = [self.clip_lengths[clip] for clip in clips]
        rows = list(super().__iter__())
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        full = len(rows) // self.batch_size
        shuffled = 1 + torch.randperm(max(0, full - 1), generator=self.generator)
        for batch in (0, *shuffled.tolist(), *range(max(1, full), len(batches))):
            yield from (int(clips[row]) for row in batches[batch])
