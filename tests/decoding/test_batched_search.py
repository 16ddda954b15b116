import numpy as np
import pytest
import torch

from hf_speechft.decoding.batched_search import search_batch
from hf_speechft.decoding.decoder import CTCDecoder
from hf_speechft.decoding.ngram import NGramLM
from hf_speechft.decoding.search import Limits, search
from tests.decoding.brute_force import BLANKS, STYLES, all_hypotheses, random_log_probs


def assert_same_paths(batched, single):
    np.testing.assert_allclose(batched.score, single.score, atol=1e-9)
    np.testing.assert_allclose(batched.acoustic, single.acoustic, atol=1e-9)
    np.testing.assert_allclose(batched.lm, single.lm, atol=1e-9)
    assert batched.start.tolist() == single.start.tolist()
    assert batched.tokens.tolist() == single.tokens.tolist()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["plain", "everything"])
@pytest.mark.parametrize("prune_logp", [-np.inf, -3.0])
def test_search_batch_with_narrow_beam_matches_search(style, kind, prune_logp, device):
    words = ["你", "好"] if style == "no word marks" else ["a", "ab"]
    separator = "" if style == "no word marks" else " "
    options = {}
    if kind == "everything":
        lm = NGramLM.from_text([" ".join(words), f"{words[0]} {words[0]}", words[1]], 3)
        options = {"lm": lm, "lm_weight": 0.8, "word_bonus": 0.4, "hotwords": {separator.join(words): 3.0}}
    lengths = np.array([30, 0, 17])
    log_probs = random_log_probs(np.random.default_rng(3), 30, len(STYLES[style]), batch=3, peakedness=1.5)
    knowledge = CTCDecoder(STYLES[style], BLANKS[style], **options)._knowledge
    limits = Limits(7, -2.5, prune_logp)
    batched = search_batch(torch.from_numpy(log_probs).to(device), lengths, BLANKS[style], limits, knowledge)
    for row, paths in enumerate(batched):
        expected = search(log_probs[row, : lengths[row]], BLANKS[style], limits, knowledge)
        if prune_logp == -np.inf:
            assert len(expected.score) == (1 if lengths[row] == 0 else 7)
        assert_same_paths(paths, expected)


CHARACTERS = list("一二三四五六七八")
VOCABULARIES = {
    "no word marks": ["<pad>", *CHARACTERS],
    "delimiter": ["<pad>", "|", "a", "b"],
    "sentencepiece": ["<pad>", "▁a", "b", "▁", "▁ab", "▁b", "a"],
    "spaces inside": ["<pad>", "▁a", "b", "▁b▁a", "a▁", "▁"],
}


@pytest.mark.parametrize("weight", [0.5, 2.0])
@pytest.mark.parametrize("style", VOCABULARIES)
def test_search_batch_matches_search_with_a_language_model_that_knows_the_context_well(style, weight):
    """The compiled search skips what cannot reach the beam, but no words that only their context makes likely."""
    tokens = VOCABULARIES[style]
    text = ["a b a b", "ab ba ab ba", "b ab b ab"]
    if style == "no word marks":
        text = [" ".join(2 * (CHARACTERS[place:] + CHARACTERS[:place])) for place in range(8)]
    lm = NGramLM.from_text(text * 5, 3)
    knowledge = CTCDecoder(tokens, 0, lm=lm, lm_weight=weight)._knowledge
    for seed in range(20):
        log_probs = random_log_probs(np.random.default_rng(seed), 14, len(tokens), peakedness=1.5)
        for limits in (Limits(4, -5.0, -10.0), Limits(8, -6.0, -4.0)):
            (batched,) = search_batch(log_probs, np.array([14]), 0, limits, knowledge)
            assert_same_paths(batched, search(log_probs[0], 0, limits, knowledge))


def test_search_batch_of_no_utterance_is_empty():
    knowledge = CTCDecoder(STYLES["delimiter"], 0)._knowledge
    assert search_batch(np.zeros((0, 5, 4), np.float32), np.zeros(0, int), 0, Limits(4, -5.0, -10.0), knowledge) == []


class CountingScorer:
    """A causal language model over words with simple scores, which counts what it is asked."""

    name_or_path = "test"

    def __init__(self):
        self.asked = []

    def score_words(self, pairs):
        self.asked += pairs
        return np.array([-0.3 * len(word) - 0.7 * (word in history) for history, word in pairs])

    def score_ends(self, histories):
        return np.array([-0.1 * len(history) for history in histories])

    def score(self, sentence):
        words = sentence.split()
        total = sum(-0.3 * len(word) - 0.7 * (word in words[:place]) for place, word in enumerate(words))
        return (total - 0.1 * len(words)) / np.log(10)


@pytest.mark.parametrize("style", ["delimiter", "sentencepiece", "wordpiece", "byte-level"])
def test_search_batch_with_causal_language_model_matches_brute_force(style):
    log_probs = random_log_probs(np.random.default_rng(5), 4, len(STYLES[style]), batch=2)
    scorer = CountingScorer()
    options = {"lm": scorer, "lm_weight": 0.6, "word_bonus": 0.2}
    unlimited = {"beam_width": 100_000, "token_min_logp": -np.inf, "beam_prune_logp": -np.inf}
    decoder = CTCDecoder(STYLES[style], BLANKS[style], **options, **unlimited)
    for row, hypotheses in enumerate(decoder.decode(log_probs, nbest=5)):
        expected = all_hypotheses(log_probs[row], style, lm=scorer, lm_weight=0.6, word_bonus=0.2)
        assert hypotheses[0].score == pytest.approx(expected[0][0], abs=1e-4)
        assert hypotheses[0].token_ids == expected[0][3]
        assert hypotheses[0].lm_score == pytest.approx(expected[0][2])
    assert scorer.asked


def test_search_batch_asks_the_language_model_only_where_a_word_may_end():
    log_probs = np.log(np.full((1, 6, 4), [0.4, 0.001, 0.3, 0.299], np.float32))
    scorer = CountingScorer()
    decoder = CTCDecoder(STYLES["delimiter"], 0, lm=scorer, beam_width=4, token_min_logp=-3.0)
    decoder.decode(log_probs)
    assert len(scorer.asked) == 4  # at the end only: the open word of each of the 4 prefixes
