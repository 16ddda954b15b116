"""Closed lists of sentences: phrases one by one, or all sentences of a JSGF grammar, as an automaton over bytes.

    JSGF text -> rules (`jsgf.py`) -> network of byte arcs and empty arcs -> deterministic automaton

The network is Thompson's, except that alternatives run between the same two states. So slots that follow each other
add up instead of multiplying: five of 50 words each accept 312 million sentences and make 250 words' worth of states.

Source: Thompson, "Regular expression search algorithm", Communications of the ACM 11 (1968); the subset construction
of Rabin and Scott, "Finite automata and their decision problems", IBM Journal 3 (1959).
"""

from collections.abc import Callable, Sequence

import numpy as np

from . import jsgf as syntax
from .automaton import Automaton, build_trie, follow

__all__ = ["accepts", "grammar_automaton", "phrases_automaton"]

MAX_STATES = 500_000  # of the network and of the automaton each: seconds to compile, some 100 MB


def phrases_automaton(phrases: Sequence[bytes]) -> Automaton:
    """Make the automaton that accepts the sentences of a list.

    >>> automaton = phrases_automaton([b"turn on ", b"turn off "])
    >>> accepts(automaton, b"turn off "), accepts(automaton, b"turn ")
    (True, False)

    Args:
        phrases: Byte stream of each sentence, as `Units.stream` writes it. Of equal ones the first counts.

    Returns:
        A trie whose `value` is the phrase's place in the list.

    Raises:
        ValueError: The list or a phrase is empty.
    """
    if not phrases:
        raise ValueError("the list of phrases is empty, so nothing could be recognised; give one phrase or more")
    for number, phrase in enumerate(phrases, start=1):
        if not phrase.strip(b" "):
            raise ValueError(f"phrase {number} of {len(phrases)} is empty; drop it or write its words")
    return build_trie(phrases)


def grammar_automaton(jsgf: str, stream: Callable[[str], bytes]) -> Automaton:
    """Compile a JSGF grammar into the automaton that accepts its sentences.

    >>> jsgf = '''#JSGF V1.0;
    ... grammar home;
    ... public <command> = [please] turn (on | off) <device>;
    ... <device> = the (light | heating) {device};
    ... '''
    >>> automaton = grammar_automaton(jsgf, lambda words: words.encode() + b" ")
    >>> accepts(automaton, b"turn on the light "), accepts(automaton, b"turn on the ")
    (True, False)

    Args:
        jsgf: The grammar's text, not its file's name.
        stream: Writes a token of the grammar, which is a word or several in quotes, as bytes: `Units.stream`.

    Returns:
        A deterministic automaton; the value of accepting states is 0.

    Raises:
        ValueError: The text is no JSGF or uses what `jsgf.py` does not support, or `stream` refuses a word (line and
            column are named); no sentence, or only the empty one, is accepted; or the grammar is too large.
    """
    try:
        network = _Network(jsgf, stream)
    except RecursionError:
        raise ValueError("the grammar is nested too deeply; use fewer brackets and rules within each other") from None
    return _trim(*_determinise(network))


def accepts(automaton: Automaton, stream: bytes) -> bool:
    """Tell whether a byte stream is one of the automaton's sentences."""
    state = 0
    for byte in stream:
        state = follow(automaton, state, byte)
        if state < 0:
            return False
    return bool(automaton.value[state] >= 0)


class _Network:
    """Arcs between numbered states: `arcs[state]` with a byte each, `empty[state]` without."""

    def __init__(self, jsgf: str, stream: Callable[[str], bytes]) -> None:
        self.jsgf, self.stream = jsgf, stream
        self.rules = syntax.parse_jsgf(jsgf)
        self.arcs: list[list[tuple[int, int]]] = []
        self.empty: list[list[int]] = []
        self.parts = 0
        self.written: dict[str, bytes] = {}
        self.start, self.end = self._state(), self._state()
        for expansion in syntax.entries(self.rules):
            self._add(expansion, self.start, self.end)

    def _state(self) -> int:
        self.arcs.append([])
        self.empty.append([])
        return len(self.arcs) - 1

    def _add(self, part: syntax.Expansion, start: int, end: int) -> None:
        """Add all ways from `start` to `end` that an expansion allows, through new states."""
        self.parts += 1
        _check_size(self.parts + len(self.arcs))
        match part:
            case syntax.Token():
                self._add_bytes(self._bytes(part), start, end)
            case syntax.Reference():
                self._add(self.rules[part.name].expansion, start, end)
            case syntax.Choice():
                for choice in part.parts:
                    self._add(choice, start, end)
            case syntax.Sequence():
                self._add_sequence(part.parts, start, end)
            case syntax.Repetition():
                first = self._state()
                last = self._state() if part.at_least_once else first
                self._add(part.part, first, last)
                self.empty[start].append(first)
                self.empty[last] += [first, end]

    def _add_sequence(self, parts: tuple[syntax.Expansion, ...], start: int, end: int) -> None:
        if not parts:
            self.empty[start].append(end)
        for place, part in enumerate(parts, start=1):
            after = end if place == len(parts) else self._state()
            self._add(part, start, after)
            start = after

    def _add_bytes(self, written: bytes, start: int, end: int) -> None:
        for place, byte in enumerate(written, start=1):
            after = end if place == len(written) else self._state()
            self.arcs[start].append((byte, after))
            start = after

    def _bytes(self, token: syntax.Token) -> bytes:
        if token.text not in self.written:
            try:
                self.written[token.text] = self.stream(token.text)
            except ValueError as error:
                syntax.fail_at(self.jsgf, token.position, str(error))
            if not self.written[token.text].strip(b" "):
                syntax.fail_at(self.jsgf, token.position, f"token {token.text!r} is empty; use <NULL> for nothing")
        return self.written[token.text]


def _check_size(states: int) -> None:
    if states > MAX_STATES:
        raise ValueError(
            f"the grammar needs more than {MAX_STATES:,} states; use shorter lists, fewer rules that repeat large "
            "ones, or '*' in place of long optional sequences"
        )


def _determinise(network: _Network) -> tuple[list[list[tuple[int, int]]], list[bool]]:
    """Make an automaton whose states are sets of the network's; return arcs (byte, target) and which states end."""
    reached: dict[int, frozenset[int]] = {}
    start = _without_bytes(network, network.start, reached)
    numbers, queue = {start: 0}, [start]
    rows = []
    for members in queue:
        targets: dict[int, set[int]] = {}
        for state in members:
            for byte, target in network.arcs[state]:
                targets.setdefault(byte, set()).add(target)
        row = []
        for byte, after in sorted(targets.items()):
            sets = [_without_bytes(network, state, reached) for state in after]
            union = sets[0] if len(sets) == 1 else frozenset().union(*sets)
            if numbers.setdefault(union, len(queue)) == len(queue):
                queue.append(union)
                _check_size(len(queue))
            row.append((byte, numbers[union]))
        rows.append(row)
    return rows, [network.end in members for members in queue]


def _without_bytes(network: _Network, state: int, reached: dict[int, frozenset[int]]) -> frozenset[int]:
    """States that empty arcs lead to and that have more than empty arcs; `reached` remembers them."""
    if state not in reached:
        seen, stack = {state}, [state]
        while stack:
            new = set(network.empty[stack.pop()]) - seen
            seen |= new
            stack.extend(new)
        reached[state] = frozenset(one for one in seen if network.arcs[one] or one == network.end)
    return reached[state]


def _trim(rows: list[list[tuple[int, int]]], is_end: list[bool]) -> Automaton:
    """Drop the states from which no sentence ends, and write the others as arrays."""
    sources: list[list[int]] = [[] for _ in rows]
    for state, row in enumerate(rows):
        for _, target in row:
            sources[target].append(state)
    is_kept = list(is_end)
    stack = [state for state, ends in enumerate(is_end) if ends]
    while stack:
        new = {source for source in sources[stack.pop()] if not is_kept[source]}
        for source in new:
            is_kept[source] = True
        stack.extend(new)
    if not is_kept[0]:
        raise ValueError("the grammar accepts no sentence: each one leads through <VOID> or a weight of 0")
    kept = [state for state, keep in enumerate(is_kept) if keep]
    arcs = [[(byte, target) for byte, target in rows[state] if is_kept[target]] for state in kept]
    labels, targets = np.array([arc for row in arcs for arc in row], np.int64).reshape(-1, 2).T
    if len(labels) == 0:
        raise ValueError("the grammar accepts nothing but the empty sentence; give its public rules words")
    number = np.cumsum(is_kept) - 1
    return Automaton(
        first_arc=np.cumsum([0, *map(len, arcs)], dtype=np.int32),
        label=labels.astype(np.uint8),
        target=number[targets].astype(np.int32),
        value=np.where(np.array(is_end)[kept], 0, -1).astype(np.int32),
    )
