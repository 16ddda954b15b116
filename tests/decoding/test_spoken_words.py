import numpy as np
import pytest

from hf_speechft.decoding.decoder import CTCDecoder
from hf_speechft.decoding.spoken_words import NO_TOKEN, SpokenWords

TOKENS = ["<pad>", "▁turn", "▁o", "n", "▁"]
TURN, OH, N, SPACE = 1, 2, 3, 4


class Scorer:
    """Scores by length, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def score_words(self, pairs):
        self.asked.append(pairs)
        return np.array([-float(len(word)) for _, word in pairs])

    def score_ends(self, histories):
        self.asked.append(histories)
        return np.array([-0.5 * len(history) for history in histories])


@pytest.fixture
def words():
    return SpokenWords(Scorer(), CTCDecoder(TOKENS, 0)._knowledge, batch=2)


def test_follow_and_score_open_ask_for_the_open_word_after_the_complete_ones(words):
    words.follow([[0, 0], [0]], [[TURN, NO_TOKEN], [OH]])
    words.follow([[0, 0, 1], [0]], [[OH, NO_TOKEN, NO_TOKEN], [N]])
    scores = words.score_open([[True, True, False], [False]])
    assert words.scorer.asked == [[(("turn",), "o"), ((), "turn")]]
    assert scores == [[-1.0, -4.0, 0.0], [0.0]]


def test_score_open_of_nothing_asks_nothing(words):
    assert words.score_open([[False], [False]]) == [[0.0], [0.0]]
    assert words.scorer.asked == []


def test_score_ends_closes_open_words(words):
    words.follow([[0], [0]], [[TURN], [OH]])
    words.follow([[0], [0]], [[SPACE], [N]])
    assert words.score_ends() == [[-0.5], [-0.5]]
    assert words.scorer.asked == [[("turn",), ("on",)]]
