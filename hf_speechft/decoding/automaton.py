"""Deterministic automata over bytes: lexicons, lists of phrases and compiled grammars share this form.

State 0 is the start. The arcs of a state lie in a row, sorted by their byte, so that following one is a binary search.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .compiled import compiled_small

__all__ = ["Automaton", "build_trie", "find_sorted", "follow"]

ROWS_AT_ONCE = 10_000  # strings that are compared with their neighbours at once; one may be very long


class Automaton(NamedTuple):
    """States and arcs as arrays.

    Attributes:
        first_arc: `(states + 1,)` int32; state s has the arcs `first_arc[s]` to `first_arc[s + 1] - 1`.
        label: `(arcs,)` uint8, ascending within a state.
        target: `(arcs,)` int32.
        value: `(states,)` int32; 0 or more where a string ends (which one, or any number), else -1.
    """

    first_arc: np.ndarray
    label: np.ndarray
    target: np.ndarray
    value: np.ndarray


def build_trie(strings: Sequence[bytes]) -> Automaton:
    """Make the tree of all prefixes of some strings, states in the order of their depth.

    Args:
        strings: None with a zero byte; there may be none at all. Of equal ones the first counts.

    Returns:
        An automaton whose `value` is the place of the string that ends in a state.

    Raises:
        ValueError: A string holds a zero byte.

    >>> trie = build_trie([b"a", b"ab"])
    >>> trie.value.tolist(), trie.target.tolist()
    ([-1, 0, 1], [1, 2])
    """
    for place, string in enumerate(strings):
        if b"\0" in string:
            raise ValueError(f"string {place} is {string!r}; it needs to be text without zero bytes")
    longest = max(1, *map(len, strings)) if strings else 1
    padded = np.array(strings, dtype=f"S{longest}")
    order = np.argsort(padded, kind="stable")
    rows = padded[order].view(np.uint8).reshape(len(strings), longest)
    lengths = np.array([len(strings[place]) for place in order], dtype=np.int64)
    common = np.zeros(len(strings), dtype=np.int64)  # leading bytes that a string shares with the one before it
    for first in range(1, len(strings), ROWS_AT_ONCE):
        end = min(first + ROWS_AT_ONCE, len(strings))
        is_same = rows[first:end] == rows[first - 1 : end - 1]
        common[first:end] = np.where(is_same.all(axis=1), longest, is_same.argmin(axis=1))
    state = np.zeros(len(strings), dtype=np.int64)
    labels, parents, states = [], [], 1
    for depth in range(longest):
        here = lengths > depth
        is_new = here & (common <= depth)
        labels.append(rows[is_new, depth])
        parents.append(state[is_new])
        state = np.where(here, states - 1 + np.cumsum(is_new), state)
        states += int(is_new.sum())
    value = np.full(states, -1, dtype=np.int32)
    value[state[::-1]] = order[::-1]  # of equal strings the first is written last
    # States are numbered as their arcs are: arc k leads to state k + 1, and parents never decrease.
    first_arc = np.searchsorted(np.concatenate(parents), np.arange(states + 1)).astype(np.int32)
    return Automaton(first_arc, np.concatenate(labels), np.arange(1, states, dtype=np.int32), value)


@compiled_small
def find_sorted(keys: np.ndarray, first: int, end: int, key: int) -> int:
    """Place of `key` among `keys[first:end]`, which ascend, or -1."""
    low, high = first, end
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < end and keys[low] == key else -1


@compiled_small
def follow(automaton: Automaton, state: int, byte: int) -> int:
    """State after one byte, or -1 where no arc has it."""
    arc = find_sorted(automaton.label, automaton.first_arc[state], automaton.first_arc[state + 1], byte)
    return automaton.target[arc] if arc >= 0 else -1
