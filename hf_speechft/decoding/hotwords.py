"""Hot words: one automaton that finds every phrase of a list in the byte stream of a hypothesis.

    streams of phrases -> trie of b" " + stream -> failure links -> next[state, symbol[byte]], bonus and potential

A phrase counts wherever its words stand together: "on" is found in "turn on now" and not in "online". The space in
front of a pattern sees to that; the stream is taken to begin after a space. Occurrences may overlap, so "a a" is found
twice in "a a a". The table is complete: one look-up a byte, with no failure links to follow.

Source: Aho and Corasick, "Efficient string matching: an aid to bibliographic search", Communications of the ACM 18
(1975), algorithms 2 to 4.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .automaton import Automaton, build_trie
from .units import SPACE

__all__ = ["HotWords", "build_hot_words"]

ROOT = 0


class HotWords(NamedTuple):
    """The automaton. It takes one step for each byte of the stream.

    Args:
        symbol: `(256,)` int32, column of each byte in `next`; 0 for bytes that stand in no pattern.
        next: `(states, symbols)` int32, the state after a symbol.
        bonus: `(states,)` float64, summed weights of the phrases that are complete on entering the state, in nats.
        potential: `(states,)` float64, the largest `weight * matched / length` of the phrases that are begun and not
            complete in the state, in bytes without the space in front. It is there to look ahead when a beam is
            pruned and belongs to no score. It is 0 where no phrase is begun, and phrases of negative weight have
            none: until they are complete, a hypothesis may still turn away from them.
        start: State at the stream's beginning.
    """

    symbol: np.ndarray
    next: np.ndarray
    bonus: np.ndarray
    potential: np.ndarray
    start: int


def build_hot_words(streams: Sequence[bytes], weights: Sequence[float]) -> HotWords:
    """Build the automaton for a list of phrases.

    >>> hot_words = build_hot_words([b"turn on ", b"on "], [2.0, 0.5])
    >>> state, found = hot_words.start, 0.0
    >>> for byte in b"turn on now ":
    ...     state = hot_words.next[state, hot_words.symbol[byte]]
    ...     found += hot_words.bonus[state]
    >>> float(found)
    2.5

    Args:
        streams: Byte stream of each phrase, as `Units.stream` writes it: single spaces between words and one at the
            end. No phrase at all gives an automaton that never finds anything.
        weights: Bonus of each phrase in nats; negative weights make a phrase less likely.

    Returns:
        The automaton's tables; they have a state for each distinct beginning of a phrase.

    Raises:
        ValueError: A phrase is empty, is no stream, or stands in the list twice; a weight is not finite; or the
            numbers of phrases and weights differ.
    """
    _check(streams, weights)
    trie = build_trie([b" ", *(b" " + stream for stream in streams)])  # the stream begins after the bare space
    parent = np.concatenate([[ROOT], np.repeat(np.arange(len(trie.value)), np.diff(trie.first_arc))])
    alphabet = np.unique(trie.label)
    symbol = np.zeros(256, np.int32)
    symbol[alphabet] = np.arange(1, len(alphabet) + 1)
    table = np.zeros((len(trie.value), len(alphabet) + 1), np.int32)
    table[parent[trie.target], symbol[trie.label]] = trie.target
    levels = _levels(trie)
    bonus = np.array([0.0, *weights, 0.0])[trie.value]  # the last one is for -1, where nothing ends
    per_byte = np.array([0.0, *(weight / len(stream) for weight, stream in zip(weights, streams, strict=True)), 0.0])
    potential = _own_potential(per_byte[trie.value], parent, levels)
    _follow_failures(table, bonus, potential, levels)
    return HotWords(symbol, table, bonus, potential, int(table[ROOT, symbol[SPACE]]))


def _check(streams: Sequence[bytes], weights: Sequence[float]) -> None:
    if len(streams) != len(weights):
        raise ValueError(f"{len(streams)} hot words were given with {len(weights)} weights; each needs its own")
    seen = set()
    for number, (stream, weight) in enumerate(zip(streams, weights, strict=True), start=1):
        text = stream.decode("utf-8", errors="replace").rstrip(" ")
        if not text:
            raise ValueError(f"hot word {number} of {len(streams)} is empty; drop it or write its words")
        if not stream.endswith(b" ") or stream.startswith(b" ") or b"  " in stream:
            raise ValueError(
                f"hot word {number} is {stream!r}; a stream has one space after each word and none in front, "
                "as Units.stream writes it"
            )
        if not math.isfinite(weight):
            raise ValueError(f"the weight of hot word {text!r} is {weight}; give a finite number of nats, such as 2.0")
        if stream in seen:
            raise ValueError(f"hot word {text!r} stands in the list twice; give it once, with its whole weight")
        seen.add(stream)


def _levels(trie: Automaton) -> list[slice]:
    """States by their depth, the root first; a trie numbers its states in this order."""
    levels, first, end = [], ROOT, ROOT + 1
    while first < end:
        levels.append(slice(first, end))
        first, end = end, int(trie.first_arc[end]) + 1  # arc k leads to state k + 1
    return levels


def _own_potential(end_weight_per_byte: np.ndarray, parent: np.ndarray, levels: list[slice]) -> np.ndarray:
    """Potential of each state by the phrases that it has from the root on; all arrays are `(states,)`."""
    best_ahead = np.zeros(len(parent))  # largest weight per byte of the phrases that end in a state's descendants
    for level in reversed(levels[1:]):
        np.maximum.at(best_ahead, parent[level], np.maximum(best_ahead[level], end_weight_per_byte[level]))
    for depth, level in enumerate(levels):
        best_ahead[level] *= max(0, depth - 1)  # the space in front counts for nothing
    return best_ahead


def _follow_failures(table: np.ndarray, bonus: np.ndarray, potential: np.ndarray, levels: list[slice]) -> None:
    """Complete the trie: a missing child becomes that of the longest suffix which is also the beginning of a pattern.

    The suffix's phrases are found, and begun, along with the state's own, so `bonus` and `potential` `(states,)` take
    them over; all three arrays change in place.
    """
    failure = np.zeros(len(table), np.int32)
    for level in levels[1:]:  # shorter suffixes first, so a failure's row is complete before it is needed
        bonus[level] += bonus[failure[level]]
        potential[level] = np.maximum(potential[level], potential[failure[level]])
        children, inherited = table[level], table[failure[level]]
        failure[children[children > 0]] = inherited[children > 0]
        table[level] = np.where(children > 0, children, inherited)
