"""Hot words: bonuses against occurrences counted by hand and by str.find, and what may look ahead."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_speechft.decoding.hotwords import build_hot_words


def stream_of(text):
    return "".join(f"{word} " for word in text.split()).encode()


def build(phrases):
    return build_hot_words([stream_of(phrase) for phrase in phrases], list(phrases.values()))


def run(hot_words, text):
    """The state and the summed bonus after each byte of the text's stream, the beginning included."""
    state, total = hot_words.start, 0.0
    states, totals = [state], [total]
    for byte in stream_of(text):
        state = hot_words.next[state, hot_words.symbol[byte]]
        total += hot_words.bonus[state]
        states.append(state)
        totals.append(total)
    return states, totals


def count_overlapping(pattern, text):
    """Occurrences of `pattern` in `text`, counted with `str.find`."""
    count, position = 0, text.find(pattern)
    while position >= 0:
        count += 1
        position = text.find(pattern, position + 1)
    return count


# Few letters make overlaps, shared beginnings and suffix patterns common; "é" is two bytes and shares one with "è".
WORD = st.text("abéè", min_size=1, max_size=3)
PHRASE = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
WEIGHT = st.floats(-4.0, 4.0, allow_nan=False)
TEXT = st.lists(WORD, max_size=12).map(" ".join)


@settings(max_examples=100)
@given(st.dictionaries(PHRASE, WEIGHT, max_size=6), TEXT)
def test_build_hot_words_bonus_matches_occurrences_counted_by_find(phrases, text):
    expected = sum(
        weight * count_overlapping(f" {phrase} ", f" {text} " if text else " ") for phrase, weight in phrases.items()
    )
    assert run(build(phrases), text)[1][-1] == pytest.approx(expected)


def expected_potential(phrases, written):
    """By definition: the largest share, times weight, of a phrase that is begun at the end of `written`."""
    best = 0.0
    for phrase, weight in phrases.items():
        pattern = b" " + stream_of(phrase)
        for matched in range(1, len(pattern) - 1):
            if (b" " + written).endswith(pattern[: matched + 1]):
                best = max(best, weight * matched / (len(pattern) - 1))
    return best


@settings(max_examples=100)
@given(st.dictionaries(PHRASE, WEIGHT, max_size=6), TEXT)
def test_build_hot_words_potential_matches_definition_after_each_byte(phrases, text):
    hot_words = build(phrases)
    states, _ = run(hot_words, text)
    stream = stream_of(text)
    expected = [expected_potential(phrases, stream[:length]) for length in range(len(stream) + 1)]
    np.testing.assert_allclose(hot_words.potential[states], expected)


@pytest.mark.parametrize(
    ("phrase", "text", "count"),
    [
        ("a a", "a a a", 2),
        ("on", "turn on now", 1),
        ("on", "turn online icon", 0),
        ("on", "on", 1),
        ("turn on", "turn turn on", 1),
        ("turn on", "turn on turn on", 2),
        ("你 好", "你 好", 1),
        ("on", "", 0),
    ],
)
def test_build_hot_words_counts_whole_words(phrase, text, count):
    assert run(build({phrase: 1.0}), text)[1][-1] == count


def test_build_hot_words_phrase_inside_another_adds_both():
    assert run(build({"turn on the light": 3.0, "on": 0.5, "the light": 0.25}), "turn on the light")[1][-1] == 3.75


def test_build_hot_words_negative_weight_is_paid_at_the_end_only():
    hot_words = build({"turn off": -2.0})
    states, totals = run(hot_words, "turn off")
    assert totals == [0.0] * 9 + [-2.0]
    assert not hot_words.potential[states].any()


def test_build_hot_words_potential_grows_and_ends_with_the_phrase():
    hot_words = build({"go on": 6.0})
    states, _ = run(hot_words, "go on")
    np.testing.assert_allclose(hot_words.potential[states], [0, 1, 2, 3, 4, 5, 0])
    states, _ = run(hot_words, "go up")
    np.testing.assert_allclose(hot_words.potential[states], [0, 1, 2, 3, 0, 0, 0])


def test_build_hot_words_without_phrases_finds_nothing():
    hot_words = build({})
    assert run(hot_words, "turn on")[1][-1] == 0.0
    assert not hot_words.potential.any()


def test_build_hot_words_has_the_promised_types():
    hot_words = build({"on": 1.0, "of": 1.0})
    assert (hot_words.symbol.shape, hot_words.symbol.dtype) == ((256,), np.int32)
    states, symbols = 7, 5  # the trie of " on " and " of "; any other byte, " ", "f", "n", "o"
    assert (hot_words.next.shape, hot_words.next.dtype) == ((states, symbols), np.int32)
    assert hot_words.bonus.dtype == hot_words.potential.dtype == np.float64
    assert isinstance(hot_words.start, int)


@pytest.mark.parametrize(
    ("streams", "weights", "message"),
    [
        ([b"on "], [1.0, 2.0], "1 hot words were given with 2 weights"),
        ([b"on ", b""], [1.0, 1.0], "hot word 2 of 2 is empty"),
        ([b" "], [1.0], "hot word 1 of 1 is empty"),
        ([b"on"], [1.0], r"hot word 1 is b'on'; a stream has one space after each word"),
        ([b" on "], [1.0], "none in front"),
        ([b"turn  on "], [1.0], "one space after each word"),
        ([b"turn on "], [math.nan], "the weight of hot word 'turn on' is nan"),
        ([b"on "], [-math.inf], "the weight of hot word 'on' is -inf; give a finite number"),
        ([b"on ", b"off ", b"on "], [1.0, 1.0, 2.0], "hot word 'on' stands in the list twice"),
    ],
)
def test_build_hot_words_bad_input_raises(streams, weights, message):
    with pytest.raises(ValueError, match=message):
        build_hot_words(streams, weights)
