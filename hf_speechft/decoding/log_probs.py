"""Checks of what a decoder is given: log-probabilities, normalised, of the right shape."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = ["check_batch", "check_log_probs"]

SUM_TOLERANCE = 1e-2  # of a step's probabilities from 1; rounding to float16 stays far below


def check_log_probs(log_probs: "np.ndarray | torch.Tensor") -> np.ndarray:
    """Return log-probabilities of one utterance as a contiguous array of float32 or float64.

    Args:
        log_probs: `(steps, vocab)`; -inf is allowed. There may be no steps.

    Raises:
        ValueError: There are not two dimensions, a value is NaN or no number, or the probabilities of a step do not
            sum to 1.
    """
    array = _to_numpy(log_probs)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"log_probs has shape {array.shape} and type {array.dtype}; one utterance of numbers is needed, "
            "(steps, vocab): pass the items of a batch one by one, cut to their lengths"
        )
    array = np.ascontiguousarray(array, np.result_type(array.dtype, np.float32))
    _check_sums(array, "log_probs")
    return array


def check_batch(
    log_probs: "np.ndarray | torch.Tensor",
    lengths: "Sequence[int] | np.ndarray | torch.Tensor | None",
    vocab: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch and its lengths as contiguous arrays of float32 and int64.

    Args:
        log_probs: `(batch, steps, vocab)`; what is behind an utterance's end is not looked at.
        lengths: `(batch,)` steps of each utterance; by default all.
        vocab: Tokens of the decoder.

    Raises:
        ValueError: A shape is wrong, or what `check_log_probs` refuses.
    """
    array = np.ascontiguousarray(_to_numpy(log_probs), dtype=np.float32)
    if array.ndim != 3:
        raise ValueError(f"log_probs has the shape {array.shape}; it needs to be (batch, steps, vocab)")
    batch, steps, columns = array.shape
    if columns != vocab:
        raise ValueError(
            f"log_probs has {columns} columns and the decoder {vocab} tokens; use the processor of the model that "
            "made the logits"
        )
    lengths = np.full(batch, steps) if lengths is None else _to_numpy(lengths).astype(np.int64)
    if lengths.shape != (batch,) or (lengths < 0).any() or (lengths > steps).any():
        raise ValueError(f"lengths is {lengths.tolist()}; it needs {batch} numbers of steps from 0 to {steps}")
    for row, length in enumerate(lengths):
        _check_sums(array[row, :length], f"log_probs of utterance {row}")
    return array, lengths


def _to_numpy(values: object) -> np.ndarray:
    """An array of a tensor on any device, whose type numpy knows, or of anything else."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.itemsize < 4 else values
    return np.asarray(values)


def _check_sums(log_probs: np.ndarray, name: str) -> None:
    """Refuse `(steps, vocab)` that are not distributions."""
    with np.errstate(over="ignore"):
        sums = np.exp(log_probs).sum(axis=1, dtype=np.float64)  # (steps,)
    if np.isnan(sums).any():
        step = int(np.isnan(sums).argmax())
        raise ValueError(f"{name} holds NaN, first in step {step}; look at the audio and the model's weights")
    wrong = np.abs(sums - 1.0) > SUM_TOLERANCE
    if wrong.any():
        step = int(wrong.argmax())
        raise ValueError(
            f"{name}: the probabilities of step {step} sum to {sums[step]:.4g}; each step needs a sum of 1: apply "
            "log_softmax to the logits"
        )
