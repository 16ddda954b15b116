import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_speechft.decoding import automaton
from hf_speechft.decoding.automaton import build_trie, follow

STRINGS = st.lists(st.binary(max_size=5).map(lambda text: bytes(97 + byte % 3 for byte in text)), max_size=20)


def value_of(automaton, string):
    state = 0
    for byte in string:
        state = follow(automaton, state, byte)
        if state < 0:
            return -1
    return automaton.value[state]


@given(strings=STRINGS.filter(bool), others=STRINGS)
def test_build_trie_finds_exactly_its_strings(strings, others):
    trie = build_trie(strings)
    for string in [*strings, *others]:
        assert value_of(trie, string) == (strings.index(string) if string in strings else -1)


@given(strings=STRINGS.filter(bool))
def test_build_trie_has_one_state_for_each_prefix(strings):
    prefixes = {string[:length] for string in strings for length in range(len(string) + 1)}
    assert len(build_trie(strings).value) == len(prefixes)


def test_build_trie_of_all_bytes_keeps_their_order():
    trie = build_trie([bytes([byte]) for byte in range(255, 0, -1)])
    assert trie.label.tolist() == list(range(1, 256))
    assert value_of(trie, b"\xff") == 0


def test_build_trie_of_zero_byte_raises():
    with pytest.raises(ValueError, match="string 1 is b'a.x00'; it needs to be text without zero bytes"):
        build_trie([b"a", b"a\0"])


def test_build_trie_compares_strings_a_few_at_a_time(monkeypatch):
    strings = [f"{number:b}".encode() for number in range(1, 60)]
    expected = build_trie(strings)
    monkeypatch.setattr(automaton, "ROWS_AT_ONCE", 7)
    for found, wanted in zip(build_trie(strings), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
