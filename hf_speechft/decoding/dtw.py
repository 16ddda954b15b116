"""Dynamic time warping: the best way to lay one feature sequence on another of a different length.

    query (frames, size), reference (frames, size) -> path (pairs, 2) of frames that belong together

Local distances are computed as the recursion reaches them, so that beside one byte for each pair of frames, which
the path needs, only three rows are kept.

Source: Sakoe and Chiba 1978, "Dynamic programming algorithm optimization for spoken word recognition"; step patterns
by the names of Giorgino 2009, "Computing and visualizing dynamic time warping alignments in R: the dtw package".
"""

from dataclasses import dataclass

import numpy as np
import torch

from .compiled import compiled, compiled_sums

__all__ = ["DISTANCES", "STEP_PATTERNS", "Warping", "dtw"]

# Each step to a pair is one or two moves (query frames, reference frames, weight), in the order they are made. The
# weight multiplies the distance of the pair that the move arrives at. Of equal steps the first is taken.
STEP_PATTERNS: dict[str, tuple[tuple[tuple[int, int, int], ...], ...]] = {
    "symmetric1": (((1, 1, 1),), ((1, 0, 1),), ((0, 1, 1),)),
    "symmetric2": (((1, 1, 2),), ((1, 0, 1),), ((0, 1, 1),)),
    # At least one diagonal move for each other move: the slope stays between 1/2 and 2 (P = 1 in the paper).
    "symmetricP1": (((1, 1, 2),), ((1, 1, 2), (1, 0, 1)), ((1, 1, 2), (0, 1, 1))),
    "asymmetric": (((1, 1, 1),), ((1, 0, 1),), ((1, 2, 1),)),
}
DISTANCES = ("euclidean", "cosine")
KEPT_ROWS = 3  # no step goes back by more than two frames of the query
MAX_PAIRS = 2**31  # one byte each; 7.7 minutes on either side at 100 frames/s


@dataclass(frozen=True)
class Warping:
    """How two sequences belong together.

    Args:
        distance: Sum over the path of the pairs' distances, each times its move's weight; the first pair counts once.
        normalized_distance: `distance` divided by what makes it comparable between lengths: query + reference frames
            for `symmetric2` and `symmetricP1`, query frames for `asymmetric`, pairs for `symmetric1`.
        path: Pairs of a query frame and a reference frame, int64 `(pairs, 2)`, from the first pair to the last.
    """

    distance: float
    normalized_distance: float
    path: np.ndarray


def dtw(
    query: np.ndarray | torch.Tensor,
    reference: np.ndarray | torch.Tensor,
    *,
    distance: str = "euclidean",
    step_pattern: str = "symmetric2",
    window: int | None = None,
) -> Warping:
    """Find the path from the first pair of frames to the last whose weighted sum of distances is smallest.

    Args:
        query: Features `(frames, size)`, for instance of a recording.
        reference: Features `(frames, size)`; the number of frames may differ.
        distance: Of two frames: `euclidean`, or `cosine` (1 - cosine of the angle, which no loudness changes).
        step_pattern: `symmetric2` (a diagonal move weighs two, so that all paths weigh the same), `symmetric1` (all
            moves weigh one), `symmetricP1` (slopes from 1/2 to 2), or `asymmetric` (each query frame is used once,
            the reference advances by 0, 1 or 2).
        window: Largest difference between the frame numbers of a pair (Sakoe-Chiba band); `None` for no limit.

    Returns:
        Distance and path.

    Raises:
        ValueError: A sequence is empty, not `(frames, size)`, or holds NaN or infinity; the sizes differ; a name is
            unknown; a frame is zero and the distance is `cosine`; or no path is left.

    >>> warping = dtw(np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [2.0], [2.0], [5.0]]))
    >>> warping.distance
    2.0
    >>> warping.path.tolist()
    [[0, 0], [1, 1], [1, 2], [2, 3]]
    """
    if step_pattern not in STEP_PATTERNS:
        raise ValueError(f"step_pattern is {step_pattern!r}; it needs to be one of {', '.join(STEP_PATTERNS)}")
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}; it needs to be one of {', '.join(DISTANCES)}")
    query, reference = _check_features(query, "query", distance), _check_features(reference, "reference", distance)
    _check_sizes(query, reference, window)
    moves = np.zeros((len(STEP_PATTERNS[step_pattern]), 2, 3), np.int64)
    for step, step_moves in enumerate(STEP_PATTERNS[step_pattern]):
        moves[step, : len(step_moves)] = step_moves
    band = max(len(query), len(reference)) if window is None else window
    total, steps = _accumulate(query, reference, moves, band, distance == "cosine")
    if not np.isfinite(total):
        limit = "" if window is None else f" in a window of {window} frames"
        raise ValueError(
            f"the step pattern {step_pattern} leaves no path between {len(query)} frames and {len(reference)}{limit}; "
            "use symmetric2 or a wider window"
        )
    path = _trace_back(steps, moves)
    frames = len(query) + len(reference)
    divisors = {"symmetric1": len(path), "symmetric2": frames, "symmetricP1": frames, "asymmetric": len(query)}
    return Warping(float(total), float(total) / divisors[step_pattern], path)


def _check_features(features: np.ndarray | torch.Tensor, name: str, distance: str) -> np.ndarray:
    """Return features as contiguous float64 `(frames, size)`, of length 1 each for `cosine`."""
    if isinstance(features, torch.Tensor):
        features = features.detach().to("cpu", torch.float64).numpy()
    features = np.ascontiguousarray(features, np.float64)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"the {name} has shape {features.shape}; features (frames, size) of one frame or more needed")
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise ValueError(f"the {name} holds NaN or infinity, first in frame {int(bad.argmax())}; repair or cut it")
    if distance != "cosine":
        return features
    lengths = np.linalg.norm(features, axis=1, keepdims=True)  # (frames, 1)
    if not lengths.all():
        raise ValueError(
            f"frame {int((lengths[:, 0] == 0).argmax())} of the {name} is zero and has no angle; use "
            "distance='euclidean' or features that are not zero in silence"
        )
    return features / lengths


def _check_sizes(query: np.ndarray, reference: np.ndarray, window: int | None) -> None:
    if query.shape[1] != reference.shape[1]:
        raise ValueError(
            f"the query's frames have {query.shape[1]} features and the reference's {reference.shape[1]}; take both "
            "from the same feature extractor"
        )
    if len(query) * len(reference) > MAX_PAIRS:
        raise ValueError(
            f"{len(query)} by {len(reference)} frames need {len(query) * len(reference) / 1e9:.1f} GB of memory, the "
            f"limit is {MAX_PAIRS / 1e9:.1f} GB; compare the recordings in parts"
        )
    gap = abs(len(query) - len(reference))
    if window is not None and window < gap:
        raise ValueError(
            f"window is {window} frames but the lengths, {len(query)} and {len(reference)} frames, differ by {gap}; "
            f"use {gap} or more"
        )


@compiled_sums
def _fill_distances(
    frame: np.ndarray, frames: np.ndarray, first: int, end: int, is_cosine: bool, row: np.ndarray
) -> None:
    """Write the distances of `frame (size,)` from `frames[first:end]` to `row`.

    Of vectors of length 1, half the squared distance is 1 - cosine, and exactly 0 where they are equal.
    """
    for index in range(first, end):
        squares = 0.0
        for place in range(len(frame)):
            squares += (frame[place] - frames[index, place]) ** 2
        row[index] = 0.5 * squares if is_cosine else np.sqrt(squares)


@compiled
def _accumulate(
    query: np.ndarray, reference: np.ndarray, moves: np.ndarray, band: int, is_cosine: bool
) -> tuple[float, np.ndarray]:
    """Return the distance of the best path, infinite where there is none, and the step that led best to each pair."""
    steps = np.zeros((len(query), len(reference)), np.int8)
    costs = np.empty((KEPT_ROWS, len(reference)))
    distances = np.empty((KEPT_ROWS, len(reference)))
    for i in range(len(query)):
        costs[i % KEPT_ROWS] = np.inf
        distances[i % KEPT_ROWS] = np.inf
        first, end = max(0, i - band), min(len(reference), i + band + 1)
        _fill_distances(query[i], reference, first, end, is_cosine, distances[i % KEPT_ROWS])
        for j in range(first, end):
            best = distances[0, 0] if i == 0 and j == 0 else np.inf
            for step in range(len(moves)):
                row, column, added = i, j, 0.0
                for move in range(moves.shape[1] - 1, -1, -1):
                    added += moves[step, move, 2] * distances[row % KEPT_ROWS, column]
                    row -= moves[step, move, 0]
                    column -= moves[step, move, 1]
                    if row < 0 or column < 0:
                        break
                if row >= 0 and column >= 0 and costs[row % KEPT_ROWS, column] + added < best:
                    best = costs[row % KEPT_ROWS, column] + added
                    steps[i, j] = step
            costs[i % KEPT_ROWS, j] = best
    return costs[(len(query) - 1) % KEPT_ROWS, -1], steps


def _trace_back(steps: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Follow the best steps from the last pair to the first; pairs within a step of two moves are on the path."""
    row, column = steps.shape[0] - 1, steps.shape[1] - 1
    path = [(row, column)]
    while row or column:
        for rows, columns, weight in moves[steps[row, column]][::-1].tolist():
            if weight:  # steps of one move are filled up with a move of no weight
                row, column = row - rows, column - columns
                path.append((row, column))
    return np.array(path[::-1])
