import numpy as np
import pytest

from hf_speechft.decoding.automaton import build_trie
from hf_speechft.decoding.decoder import CTCDecoder
from hf_speechft.decoding.ngram import NGramLM
from hf_speechft.decoding.prefix import LN_10, NODE, ceiling, close_word, extend, open_word_scores, start_node
from tests.decoding.brute_force import BLANKS, STYLES, written_words


def test_open_word_scores_are_the_best_below_each_state():
    lexicon = build_trie([b"a", b"ab", b"b"])
    assert open_word_scores(lexicon, np.array([-3.0, -1.0, -2.0])).tolist() == [-1.0, -1.0, -2.0, -1.0]


def follow_tokens(tokens, knowledge):
    """The nodes of a prefix, from the empty one on."""
    nodes = np.zeros(len(tokens) + 1, NODE)
    start_node(nodes[0], knowledge)
    for place, token in enumerate(tokens):
        assert extend(nodes[place], token, knowledge, nodes[place + 1])
    return nodes


@pytest.mark.parametrize("style", ["delimiter", "sentencepiece", "wordpiece", "byte-level"])
def test_extend_and_close_word_score_the_words_that_are_written(style):
    lm = NGramLM.from_text(["a b", "ab a", "a ab ab"], 3)
    decoder = CTCDecoder(STYLES[style], BLANKS[style], lm=lm, lm_weight=1.0, word_bonus=0.5, unknown_word_score=-2.0)
    rng = np.random.default_rng(0)
    searched = np.flatnonzero(decoder.units.is_searched)
    for _ in range(50):
        tokens = rng.choice(searched, rng.integers(1, 6))
        last = follow_tokens(tokens, decoder._knowledge)[-1]
        if last["is_open"]:
            close_word(last, decoder._knowledge)
        words = written_words(style, [STYLES[style][token] for token in tokens])
        assert last["lm_score"] == pytest.approx(LN_10 * lm.score(" ".join(words), eos=False), abs=1e-5)
        unknown = sum(word not in lm.words for word in words)
        assert last["bonus"] == pytest.approx(0.5 * len(words) - 2.0 * unknown)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("lm_weight", [0.0, 0.7])
def test_ceiling_is_never_below_what_a_token_adds(style, lm_weight):
    """It may only rule out what is too low, so for every next token it lies above what the prefix then has."""
    texts = ["你 好", "好"] if style == "no word marks" else ["a b", "ab a", "a ab ab"]
    hotwords = {"你好": 2.0} if style == "no word marks" else {"a ab": 3.0, "a": 0.5}
    decoder = CTCDecoder(
        STYLES[style],
        BLANKS[style],
        lm=NGramLM.from_text(texts, 2),
        lm_weight=lm_weight,
        word_bonus=0.8,
        hotwords=hotwords,
    )
    knowledge, rng = decoder._knowledge, np.random.default_rng(1)
    searched = np.flatnonzero(decoder.units.is_searched)
    for _ in range(100):
        last = follow_tokens(rng.choice(searched, rng.integers(0, 6)), knowledge)[-1]
        for token in searched:
            after = np.zeros(1, NODE)
            extend(last, token, knowledge, after[0])
            is_space = decoder.units.pieces[token].startswith(b" ")
            assert after[0]["static"] <= ceiling(last, is_space, knowledge) + 1e-9
