"""Variants of the training speech: the same utterances at other speeds."""

from collections.abc import Sequence

import numpy as np
import soxr
from datasets import Dataset, concatenate_datasets

SLOWEST, FASTEST = 0.5, 2.0


def change_speed(waveform: np.ndarray, factor: float, sampling_rate_hz: int) -> np.ndarray:
    """Play a waveform faster or slower, which changes tempo and pitch together (sox `speed`).

    Args:
        waveform: Mono samples `(samples,)`.
        factor: 1.1 is a tenth faster.
        sampling_rate_hz: Rate of the waveform, and of the result.

    Returns:
        About `samples / factor` float32 samples.

    Source: Ko et al., "Audio augmentation for speech recognition", Interspeech 2015, section 2.
    """
    if factor == 1.0:
        return waveform
    return soxr.resample(waveform, sampling_rate_hz * factor, sampling_rate_hz).astype(np.float32)


def check_speed_factors(factors: Sequence[float]) -> None:
    """Refuse speeds that make no sense.

    Raises:
        ValueError: No factor, or one that is out of range or given twice.
    """
    if not factors or len(set(factors)) < len(factors) or not all(SLOWEST <= one <= FASTEST for one in factors):
        raise ValueError(f"speed factors are {list(factors)}; give distinct numbers from {SLOWEST} to {FASTEST}")


def expand_speeds(dataset: Dataset, factors: Sequence[float]) -> Dataset:
    """Repeat a split once for each speed.

    The copies differ in the column `speed`, which the collator applies, and in `duration_s` and `utterance_id`, so
    that batches see each copy as it will sound.

    Args:
        dataset: A split from `load_corpus`.
        factors: Speeds between 0.5 and 2; 1 is the recording as it is.

    Returns:
        The split with `len(factors)` times as many rows.

    Raises:
        ValueError: As `check_speed_factors`.
    """
    check_speed_factors(factors)
    durations, ids = dataset["duration_s"], dataset["utterance_id"]
    copies = []
    for factor in factors:
        copy = dataset.add_column("speed", [factor] * len(dataset))
        if factor != 1.0:
            copy = copy.remove_columns(["duration_s", "utterance_id"])
            copy = copy.add_column("duration_s", [duration / factor for duration in durations])
            copy = copy.add_column("utterance_id", [f"{name}@{factor:g}" for name in ids])
        copies.append(copy)
    return concatenate_datasets(copies)
