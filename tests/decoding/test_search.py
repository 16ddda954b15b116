import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_speechft.decoding.batched_search import search_batch
from hf_speechft.decoding.decoder import CTCDecoder
from hf_speechft.decoding.ngram import NGramLM
from hf_speechft.decoding.prefix import NODE, extend, start_node
from hf_speechft.decoding.search import Limits, _best_places, search
from tests.decoding.brute_force import BLANKS, STYLES, all_hypotheses, random_log_probs

UNLIMITED = Limits(beam_width=100_000, token_min_logp=-np.inf, beam_prune_logp=-np.inf)
TEXT = {
    "no word marks": ["你 好", "你 你 好", "好"],
    "any": ["a b", "ab a", "a ab ab", "ba b a b"],
}


def options_for(style, kind, weight):
    """Arguments of the decoder, and the same for the brute force."""
    joined = (lambda words: "".join(words)) if style == "no word marks" else " ".join
    lm = NGramLM.from_text(TEXT.get(style, TEXT["any"]), 3)
    hot = [("你", "好"), ("好",)] if style == "no word marks" else [("a", "ab"), ("ab",), ("b",)]
    phrases = [("你", "好"), ("好", "你", "你")] if style == "no word marks" else [("a",), ("ab", "a"), ("a", "a")]
    if style == "byte-level":
        hot, phrases = [("a", "ab"), ("ab",)], [("a",), ("ab", "a"), ("a", "a")]
    if style == "sentencepiece":
        hot = [("a", "ab"), ("ab",), ("b",)]
    if style == "wordpiece":
        hot, phrases = [("a", "ab"), ("ab",), ("ba",)], [("a",), ("ab", "a"), ("ba", "ba")]
    ours, naive = {}, {}
    if "lm" in kind:
        options = {"lm": lm, "lm_weight": weight, "word_bonus": 0.7, "unknown_word_score": -1.3}
        ours |= options
        naive |= options
    if "hotwords" in kind:
        weights = dict(zip(hot, [1.5, -0.5, 2.0], strict=False))
        ours["hotwords"] = {joined(words): value for words, value in weights.items()}
        naive["hotwords"] = weights
    if "phrases" in kind:
        ours["phrases"] = [joined(words) for words in phrases]
        naive["phrases"] = phrases
    return ours, naive


def assert_same_as_brute_force(paths, expected):
    assert len(paths.score) == len(expected)
    np.testing.assert_allclose(paths.score, [one[0] for one in expected], atol=2e-4)
    by_tokens = {tuple(one[3]): one for one in expected}
    for path in range(len(paths.score)):
        tokens = tuple(paths.tokens[paths.start[path] : paths.start[path + 1]].tolist())
        score, acoustic, lm_score, _, _ = by_tokens.pop(tokens)
        assert paths.score[path] == pytest.approx(score, abs=2e-4)
        assert paths.acoustic[path] == pytest.approx(acoustic, abs=2e-4)
        assert paths.lm[path] == pytest.approx(lm_score, abs=2e-4)


@pytest.mark.parametrize("kind", ["", "lm", "hotwords", "phrases", "lm hotwords", "lm hotwords phrases"])
@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=8, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(0, 4), weight=st.floats(0.0, 2.0))
def test_search_with_unlimited_beam_matches_brute_force(style, kind, seed, steps, weight):
    log_probs = random_log_probs(np.random.default_rng(seed), steps, len(STYLES[style]))
    ours, naive = options_for(style, kind, weight)
    decoder = CTCDecoder(STYLES[style], BLANKS[style], **ours, **UNLIMITED._asdict())
    expected = all_hypotheses(log_probs[0], style, **naive)
    assert_same_as_brute_force(search(log_probs[0], BLANKS[style], UNLIMITED, decoder._knowledge), expected)
    (batched,) = search_batch(log_probs, np.array([steps]), BLANKS[style], UNLIMITED, decoder._knowledge)
    assert_same_as_brute_force(batched, expected)


def test_search_whose_prefix_left_the_beam_and_came_back_counts_it_once():
    """With a beam of 2 prefixes drop out while those that they led to stay; none may then appear twice."""
    for seed in range(300):
        log_probs = random_log_probs(np.random.default_rng(seed), 12, 4, peakedness=1.0)[0]
        decoder = CTCDecoder(STYLES["delimiter"], 0)
        paths = search(log_probs, 0, UNLIMITED._replace(beam_width=3), decoder._knowledge)
        written = [tuple(paths.tokens[paths.start[i] : paths.start[i + 1]]) for i in range(len(paths.score))]
        assert len(written) == len(set(written))


@pytest.mark.parametrize("style", STYLES)
def test_search_with_narrow_beam_never_scores_above_the_true_probability(style):
    generator = np.random.default_rng(1)
    decoder = CTCDecoder(STYLES[style], BLANKS[style])
    for _ in range(20):
        log_probs = random_log_probs(generator, 5, len(STYLES[style]))[0]
        truth = {tuple(one[3]): one[1] for one in all_hypotheses(log_probs, style)}
        paths = search(log_probs, BLANKS[style], Limits(2, -3.0, -2.0), decoder._knowledge)
        for path in range(len(paths.score)):
            tokens = tuple(paths.tokens[paths.start[path] : paths.start[path + 1]].tolist())
            assert paths.acoustic[path] <= truth[tokens] + 1e-5


def test_search_prunes_tokens_below_the_threshold_but_not_the_likeliest():
    log_probs = np.log(np.array([[0.2, 0.01, 0.59, 0.2]], np.float32))
    knowledge = CTCDecoder(STYLES["delimiter"], 0)._knowledge
    everything = search(log_probs, 0, UNLIMITED, knowledge)
    only_best = search(log_probs, 0, UNLIMITED._replace(token_min_logp=-0.1), knowledge)
    assert len(everything.score) == 4
    assert only_best.tokens.tolist() == [2]


@pytest.mark.parametrize("kind", ["", "lm hotwords"])
def test_search_drops_the_prefixes_that_are_too_far_below_the_best(kind):
    """After one step those prefixes are left whose acoustic score and look-ahead come near the best, and no others."""
    ours, _ = options_for("delimiter", kind, 0.5)
    decoder = CTCDecoder(STYLES["delimiter"], 0, **ours)
    for seed in range(50):
        log_probs = random_log_probs(np.random.default_rng(seed), 1, 4)[0]
        start = np.zeros(1, NODE)
        start_node(start[0], decoder._knowledge)
        order_score = {(): float(log_probs[0, 0])}
        for token in (1, 2, 3):
            child = np.zeros(1, NODE)
            extend(start[0], token, decoder._knowledge, child[0])
            order_score[token,] = float(log_probs[0, token] + child[0]["static"])
        kept = {tokens for tokens, score in order_score.items() if score >= max(order_score.values()) - 1.5}
        limits = UNLIMITED._replace(beam_prune_logp=-1.5)
        (batched,) = search_batch(log_probs[None], np.array([1]), 0, limits, decoder._knowledge)
        for paths in (search(log_probs, 0, limits, decoder._knowledge), batched):
            written = {tuple(paths.tokens[slice(*paths.start[i : i + 2])].tolist()) for i in range(len(paths.score))}
            assert written == kept


def test_search_where_no_phrase_can_go_on_finds_nothing():
    log_probs = np.array([[-np.inf, -0.7, -0.7, -np.inf]] * 3, np.float32)
    decoder = CTCDecoder(STYLES["delimiter"], 0, phrases=["b"])
    assert len(search(log_probs, 0, UNLIMITED, decoder._knowledge).score) == 0


def test_search_extends_the_beam_where_more_nodes_are_needed_than_were_made_at_first():
    log_probs = random_log_probs(np.random.default_rng(0), 200, 4, peakedness=0.5)[0]
    paths = search(log_probs, 0, UNLIMITED._replace(beam_width=64), CTCDecoder(STYLES["delimiter"], 0)._knowledge)
    assert len(paths.score) == 64


def test_best_places_takes_the_first_of_equal_scores():
    scores = np.array([1.0, 2.0, 1.0, -np.inf, 1.0])
    assert _best_places(scores, -np.inf, 3).tolist() == [1, 0, 2]
    assert _best_places(scores, -np.inf, 9).tolist() == [1, 0, 2, 4]
    assert _best_places(scores, 1.5, 9).tolist() == [1]
