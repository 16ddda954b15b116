"""Unbalanced corpora: draw the clips of an epoch so that each class (speaker, accent, domain…) is heard equally often.

An epoch has as many clips as the split. How often a class is drawn follows from its weight, `count ** (1 - power)`:
with power 1 all classes are drawn equally often, with 0 as they come, and between is the sampling with which XLM and
multilingual BERT raise rare languages. Which clips of a class is dealt in turn: none a second time before each was
once.

Source: Conneau and Lample, 2019, arXiv:1901.07291, section 3.1 (their alpha is 1 - power).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ClassBalance:
    """Draws the clips of an epoch, depending on the seed and the epoch only.

    A clip whose class is "" has none: such clips are drawn as often as they come, and so is added silence.

    Args:
        classes: Class of each clip.
        power: From 0 to 1; 1 makes the classes equal.
        seed: Of the draws.

    Raises:
        ValueError: The power is out of range, or there are fewer than two classes.
    """

    def __init__(self, classes: Sequence[str], *, power: float = 1.0, seed: int = 0) -> None:
        if not 0 <= power <= 1:
            raise ValueError(f"the power of balancing is {power}; it needs to be from 0 to 1")
        self.names, numbers = np.unique(np.asarray(classes, dtype=object).astype(str), return_inverse=True)
        self.seed = seed
        self._clips = [np.flatnonzero(numbers == number) for number in range(len(self.names))]
        counts = np.array([len(clips) for clips in self._clips], dtype=np.float64)
        named = self.names != ""
        if named.sum() < 2:
            raise ValueError(f"the clips have {named.sum()} classes, so there is nothing to balance; 2 are needed")
        weights = counts ** (1 - power)
        self.draws = np.where(named, weights * counts[named].sum() / weights[named].sum(), counts)

    @property
    def counts(self) -> dict[str, int]:
        """Clips of each class."""
        return {str(name): len(clips) for name, clips in zip(self.names, self._clips, strict=True)}

    def draw(self, epoch: int) -> np.ndarray:
        """Draw as many clips as there are, some of them more than once.

        Args:
            epoch: Number of the epoch, from 0.

        Returns:
            Indices `(clips,)`, by class. A class has its expected number of draws, rounded up or down at random.
        """
        random = np.random.default_rng((self.seed, epoch, 1))  # another stream than that of the batches
        edges = np.floor(np.cumsum(self.draws) + random.random()).astype(int)
        edges[-1] = sum(map(len, self._clips))  # whatever the rounding of float64
        numbers = np.diff(edges, prepend=0)
        return np.concatenate(
            [np.resize(random.permutation(clips), number) for clips, number in zip(self._clips, numbers, strict=True)]
        )

    def __str__(self) -> str:
        counts = {name: number for name, number in self.counts.items() if name}
        repeats = [draws / self.counts[name] for name, draws in zip(self.names, self.draws, strict=True) if name]
        return (
            f"{len(counts)} classes of {min(counts.values())} to {max(counts.values())} clips; an epoch hears a clip "
            f"{min(repeats):.2g} to {max(repeats):.2g} times, by its class"
        )
