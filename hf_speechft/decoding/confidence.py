"""How sure a word is: the share of the beam's probability that says the same word in the same place.

The scores of the beam's hypotheses, normalised to sum to 1, are their posterior probabilities as far as the beam
knows. A word's confidence is the mass of the hypotheses that have it when they are aligned with the word's own by edit
distance.

Source: Mangu, Brill and Stolcke 2000, "Finding consensus in speech recognition", Computer Speech and Language 14,
section 2, with the n-best list in place of the lattice.
"""

import numpy as np

from .compiled import compiled
from .units import SPACE

__all__ = ["number_words", "word_confidences"]

HASH_START, HASH_FACTOR = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits


@compiled
def number_words(
    tokens: np.ndarray, start: np.ndarray, pieces: np.ndarray, piece_start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut paths into words.

    Args:
        tokens: Tokens of all paths in a row.
        start: `(paths + 1,)` first token of each path.
        pieces: uint8, what the tokens write, in a row.
        piece_start: `(vocab + 1,)`.

    Returns:
        For each token the place in its path of the word that it writes a part of, -1 where it writes none;
        fingerprints of all paths' words in a row, uint64; and `(paths + 1,)` the first word of each path.
    """
    word_of_token = np.full(len(tokens), -1, np.int32)
    fingerprints = np.empty(_written_bytes(tokens, piece_start), np.uint64)
    first_word = np.zeros(len(start), np.int64)
    count = 0
    for path in range(len(start) - 1):
        is_open = False
        for place in range(start[path], start[path + 1]):
            for at in range(piece_start[tokens[place]], piece_start[tokens[place] + 1]):
                if pieces[at] == SPACE:
                    is_open = False
                    continue
                if not is_open:
                    fingerprints[count] = HASH_START
                    count += 1
                    is_open = True
                if word_of_token[place] < 0:
                    word_of_token[place] = count - 1 - first_word[path]
                fingerprints[count - 1] = (fingerprints[count - 1] ^ np.uint64(pieces[at])) * HASH_FACTOR
        first_word[path + 1] = count
    return word_of_token, fingerprints[:count], first_word


@compiled
def _written_bytes(tokens: np.ndarray, piece_start: np.ndarray) -> int:
    """Bytes that a row of tokens writes."""
    total = 0
    for token in tokens:
        total += piece_start[token + 1] - piece_start[token]
    return total


@compiled
def word_confidences(path: int, scores: np.ndarray, fingerprints: np.ndarray, first_word: np.ndarray) -> np.ndarray:
    """Confidence of each word of one path.

    Args:
        path: Which of the paths.
        scores: `(paths,)` log scores.
        fingerprints: Words of all paths, from `number_words`.
        first_word: `(paths + 1,)`.

    Returns:
        `(words,)` numbers from 0 to 1.
    """
    words = fingerprints[first_word[path] : first_word[path + 1]]
    mass = np.exp(scores - scores.max())
    mass /= mass.sum()
    confidences = np.zeros(len(words))
    for other in range(len(scores)):
        if mass[other] < 1e-6:
            continue
        _add_where_equal(words, fingerprints[first_word[other] : first_word[other + 1]], mass[other], confidences)
    return np.minimum(confidences, 1.0)


@compiled
def _add_where_equal(words: np.ndarray, others: np.ndarray, mass: float, confidences: np.ndarray) -> None:
    """Align two word sequences by edit distance, and add `mass` to the words that meet their like."""
    costs = np.empty((len(words) + 1, len(others) + 1), np.int32)
    costs[:, 0] = np.arange(len(words) + 1)
    costs[0] = np.arange(len(others) + 1)
    for row in range(1, len(words) + 1):
        for column in range(1, len(others) + 1):
            substituted = costs[row - 1, column - 1] + (words[row - 1] != others[column - 1])
            costs[row, column] = min(substituted, costs[row - 1, column] + 1, costs[row, column - 1] + 1)
    row, column = len(words), len(others)
    while row > 0 and column > 0:
        is_equal = words[row - 1] == others[column - 1]
        if costs[row, column] == costs[row - 1, column - 1] + (not is_equal):
            if is_equal:
                confidences[row - 1] += mass
            row, column = row - 1, column - 1
        elif costs[row, column] == costs[row - 1, column] + 1:
            row -= 1
        else:
            column -= 1
