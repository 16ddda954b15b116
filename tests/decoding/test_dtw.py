"""Dynamic time warping against enumeration of all paths, librosa, and results of the dtw package."""

import csv

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_speechft.data.audio import load_audio
from hf_speechft.decoding.dtw import DISTANCES, STEP_PATTERNS, dtw
from hf_speechft.model.feature_extraction_speechbert import SpeechBertFeatureExtractor

MOVES = {"asymmetric": ((1, 0), (1, 1), (1, 2))}  # the others: one frame further in one sequence or in both
DIVISOR_NAMES = {"symmetric2": "both", "symmetricP1": "both", "asymmetric": "query", "symmetric1": "pairs"}


def features(frames, seed, size=3):
    return np.random.default_rng(seed).normal(size=(frames, size))


def weight(step_pattern, move):
    """Of a move, as Sakoe and Chiba define it for their symmetric and asymmetric forms."""
    return sum(move) if step_pattern in ("symmetric2", "symmetricP1") else 1


def all_paths(step_pattern, frames, window, path=((0, 0),), last=None):
    """Enumerate the paths to the last pair that the pattern and the window allow, with their moves."""
    if path[-1] == (frames[0] - 1, frames[1] - 1):
        yield path
        return
    for move in MOVES.get(step_pattern, ((1, 1), (1, 0), (0, 1))):
        pair = (path[-1][0] + move[0], path[-1][1] + move[1])
        is_outside = pair[0] >= frames[0] or pair[1] >= frames[1] or abs(pair[0] - pair[1]) > window
        breaks_slope = step_pattern == "symmetricP1" and move != (1, 1) and last != (1, 1)
        if not is_outside and not breaks_slope:
            yield from all_paths(step_pattern, frames, window, (*path, pair), move)


def path_distance(step_pattern, distances, path):
    moves = [(there[0] - here[0], there[1] - here[1]) for here, there in zip(path, path[1:], strict=False)]
    weights = [1, *(weight(step_pattern, move) for move in moves)]
    return sum(factor * distances[pair] for factor, pair in zip(weights, path, strict=True))


@given(
    step_pattern=st.sampled_from(sorted(STEP_PATTERNS)),
    frames=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    window=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80)
def test_dtw_matches_enumeration_of_all_paths(step_pattern, frames, window, seed):
    query, reference = features(frames[0], seed), features(frames[1], seed + 1)
    distances = np.linalg.norm(query[:, None] - reference[None], axis=-1)
    candidates = {
        path: path_distance(step_pattern, distances, path) for path in all_paths(step_pattern, frames, window)
    }
    if not candidates:
        with pytest.raises(ValueError, match="window"):
            dtw(query, reference, step_pattern=step_pattern, window=window)
        return
    warping = dtw(query, reference, step_pattern=step_pattern, window=window)
    path = tuple(map(tuple, warping.path.tolist()))
    assert warping.distance == pytest.approx(min(candidates.values()))
    assert candidates[path] == pytest.approx(warping.distance)
    divisors = {"both": sum(frames), "query": frames[0], "pairs": len(path)}
    assert warping.normalized_distance == pytest.approx(warping.distance / divisors[DIVISOR_NAMES[step_pattern]])


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    ("step_pattern", "steps", "weights"),
    [
        ("symmetric1", [[1, 1], [1, 0], [0, 1]], [1, 1, 1]),
        ("symmetric2", [[1, 1], [1, 0], [0, 1]], [2, 1, 1]),
        ("asymmetric", [[1, 1], [1, 0], [1, 2]], [1, 1, 1]),
    ],
)
def test_dtw_matches_librosa(step_pattern, steps, weights, distance):
    query, reference = features(60, 1, size=13), features(70, 2, size=13)
    costs, path = librosa.sequence.dtw(
        query.T,
        reference.T,
        metric=distance,
        step_sizes_sigma=np.array(steps),
        weights_mul=np.array(weights, float),
        weights_add=np.zeros(3),
    )
    warping = dtw(query, reference, distance=distance, step_pattern=step_pattern)
    assert warping.distance == pytest.approx(costs[-1, -1])
    assert warping.path.tolist() == path[::-1].tolist()


@pytest.mark.parametrize(
    ("step_pattern", "distance", "normalized_distance", "query_path", "reference_path"),
    [
        ("symmetric1", 15.0, 1.25, [0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9]),
        (
            "symmetric2",
            22.0,
            1.1,
            [0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 9],
            [0, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 8, 9],
        ),
        ("symmetricP1", 25.0, 1.25, [0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9], [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9]),
        ("asymmetric", 8.0, 0.8, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 2, 3, 5, 5, 7, 7, 8, 8, 9]),
    ],
)
def test_dtw_matches_dtw_package(step_pattern, distance, normalized_distance, query_path, reference_path):
    """What dtw-python 1.9.0 gives; it does not normalise symmetric1, for which 1.25 is 15 over 12 pairs."""
    query = np.array([1.0, 3, 4, 9, 8, 2, 1, 5, 7, 3])[:, None]
    reference = np.array([1.0, 6, 2, 3, 0, 9, 4, 3, 6, 3])[:, None]
    warping = dtw(query, reference, step_pattern=step_pattern)
    assert (warping.distance, warping.normalized_distance) == pytest.approx((distance, normalized_distance))
    assert warping.path.T.tolist() == [query_path, reference_path]


@pytest.mark.parametrize("step_pattern", sorted(STEP_PATTERNS))
@pytest.mark.parametrize("distance", DISTANCES)
def test_dtw_same_sequence_has_distance_zero_on_the_diagonal(step_pattern, distance):
    sequence = features(40, 0, size=13)
    warping = dtw(sequence, sequence.copy(), step_pattern=step_pattern, distance=distance)
    assert warping.distance == 0.0
    assert warping.path.tolist() == [[frame, frame] for frame in range(40)]


def test_dtw_repeated_frames_cost_nothing():
    reference = features(20, 0)
    slowness = np.random.default_rng(1).integers(1, 4, 20)
    warping = dtw(np.repeat(reference, slowness, axis=0), reference)
    assert warping.distance == 0.0
    assert warping.path[:, 1].tolist() == np.repeat(np.arange(20), slowness).tolist()


def test_dtw_cosine_is_invariant_to_loudness():
    query, reference = features(20, 0), features(25, 1)
    louder = query * np.linspace(0.5, 4.0, 20)[:, None]
    expected = dtw(query, reference, distance="cosine").distance
    assert dtw(louder, reference, distance="cosine").distance == pytest.approx(expected)


def test_dtw_tensor_matches_array():
    query, reference = features(20, 0).astype(np.float32), features(25, 1).astype(np.float32)
    warping = dtw(torch.from_numpy(query).requires_grad_(), torch.from_numpy(reference))
    assert warping.distance == dtw(query, reference).distance
    half = torch.from_numpy(query).bfloat16()
    assert dtw(half, half).distance == 0.0


@pytest.mark.parametrize("step_pattern", sorted(STEP_PATTERNS))
def test_dtw_window_of_the_whole_length_changes_nothing(step_pattern):
    query, reference = features(30, 3), features(35, 4)
    free, wide = (dtw(query, reference, step_pattern=step_pattern, window=window) for window in (None, 34))
    assert (free.distance, free.path.tolist()) == (wide.distance, wide.path.tolist())


@pytest.mark.speech
def test_dtw_finds_the_word_that_another_speaker_said(speech_folder):
    """Nearest of the ten digits of another speaker: right far more often than by chance, which is one in ten."""
    folder = speech_folder / "fsdd" / "test"
    extractor = SpeechBertFeatureExtractor(feature_type="mfcc", feature_size=13, normalize="mean")
    digits = {"jackson": {}, "theo": {}}
    with open(folder / "metadata.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["speaker_id"] in digits and row["take"] == "0":
                clip = load_audio(folder / row["file_name"], 16_000)
                inputs = extractor(clip, sampling_rate=16_000, return_tensors="np")
                digits[row["speaker_id"]][row["digit"]] = inputs["input_features"][0]
    one, other = digits.values()
    found = [
        min(one, key=lambda known: dtw(spoken, one[known], distance="cosine").normalized_distance)
        for spoken in other.values()
    ]
    assert len(found) == 10
    assert sum(digit == spoken for digit, spoken in zip(found, other, strict=True)) >= 6


@pytest.mark.parametrize(
    ("query", "reference", "options", "message"),
    [
        (np.empty((0, 3)), features(4, 0), {}, r"the query has shape \(0, 3\)"),
        (features(4, 0), np.empty((4, 0)), {}, r"the reference has shape \(4, 0\)"),
        (np.zeros(4), features(4, 0), {}, r"the query has shape \(4,\)"),
        (features(4, 0, size=2), features(4, 0), {}, "query's frames have 2 features and the reference's 3"),
        (features(4, 0), np.full((5, 3), np.nan), {}, "the reference holds NaN or infinity, first in frame 0"),
        (np.array([[0.0], [np.inf]]), np.zeros((2, 1)), {}, "the query holds NaN or infinity, first in frame 1"),
        (np.array([[1.0], [0.0]]), np.ones((2, 1)), {"distance": "cosine"}, "frame 1 of the query is zero"),
        (features(4, 0), features(4, 0), {"distance": "hamming"}, "'hamming'; it needs to be one of euclidean, cos"),
        (features(4, 0), features(4, 0), {"step_pattern": "P2"}, "'P2'; it needs to be one of symmetric1"),
        (features(4, 0), features(9, 0), {"window": 4}, "lengths, 4 and 9 frames, differ by 5; use 5 or more"),
        (features(4, 0), features(4, 0), {"window": -1}, "window is -1 frames"),
        (features(3, 0), features(6, 0), {"step_pattern": "asymmetric"}, "asymmetric leaves no path between 3 frames"),
        (features(9, 0), features(4, 0), {"step_pattern": "symmetricP1"}, "symmetricP1 leaves no path"),
        (
            features(4, 0),
            features(8, 0),
            {"step_pattern": "symmetricP1", "window": 4},
            "no path between 4 frames and 8 in a window of 4",
        ),
        (np.zeros((50_000, 1)), np.zeros((50_000, 1)), {}, "50000 by 50000 frames need 2.5 GB of memory"),
    ],
)
def test_dtw_bad_input_raises(query, reference, options, message):
    with pytest.raises(ValueError, match=message):
        dtw(query, reference, **options)
