import numpy as np
import pytest

from hf_speechft.decoding.confidence import number_words, word_confidences
from hf_speechft.decoding.units import read_units

UNITS = read_units(["<pad>", "|", "a", "b", "c"], 0)


def in_a_row(texts):
    """Token paths for texts over the characters of UNITS."""
    paths = [[" abc".index(character) + 1 for character in text] for text in texts]
    start = np.cumsum([0, *map(len, paths)])
    return np.array([token for path in paths for token in path], np.int32), start


def confidences_of(texts, probabilities, path=0):
    tokens, start = in_a_row(texts)
    _, fingerprints, first_word = number_words(tokens, start, *UNITS.flat)
    return word_confidences(path, np.log(probabilities), fingerprints, first_word).tolist()


def test_number_words_gives_each_token_its_word():
    tokens, start = in_a_row([" ab  c", "", "c"])
    word_of_token, fingerprints, first_word = number_words(tokens, start, *UNITS.flat)
    assert word_of_token.tolist() == [-1, 0, 0, -1, -1, 1, 0]
    assert first_word.tolist() == [0, 2, 2, 3]
    assert fingerprints[1] == fingerprints[2] != fingerprints[0]


def test_number_words_takes_differently_spelt_words_for_one():
    units = read_units(["<pad>", "▁a", "b", "▁ab"], 0)
    tokens, start = np.array([1, 2, 3], np.int32), np.array([0, 2, 3])
    _, fingerprints, _ = number_words(tokens, start, *units.flat)
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a b", "a b"], [1.0, 1.0]),
        (["a b", "a c"], [1.0, 0.75]),
        (["a b", "b"], [0.75, 1.0]),
        (["a b", "a c b"], [1.0, 1.0]),
        (["a b", ""], [0.75, 0.75]),
        (["a a", "a"], [0.75, 1.0]),
    ],
)
def test_word_confidences_are_the_mass_of_the_paths_that_agree(texts, expected):
    assert confidences_of(texts, [0.75, 0.25]) == pytest.approx(expected)


def test_word_confidences_normalise_scores():
    assert confidences_of(["a", "b", "c"], [0.06, 0.03, 0.01], path=1) == pytest.approx([0.3])
