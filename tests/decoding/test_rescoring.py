import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_speechft.decoding import rescoring
from hf_speechft.decoding.decoder import Hypothesis, Word
from hf_speechft.decoding.rescoring import CausalWordScorer, Rescoring, SentenceScorer, rescore
from tests.decoding.tiny_language_models import (
    SENTENCES,
    ReadTokens,
    plain_causal_score,
    plain_sentence_score,
    save_tiny,
    tiny_model,
    tiny_tokenizer,
    word_spanning_tokenizer,
)

CAUSAL = ["gpt2", "llama"]
MASKED = ["bert", "roberta"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_tiny(kind, tmp_path_factory.mktemp(kind)) for kind in CAUSAL + MASKED}


@pytest.mark.parametrize("kind", CAUSAL + MASKED)
def test_score_matches_one_sentence_at_a_time(kind, folders):
    scorer = SentenceScorer.from_pretrained(folders[kind], device="cpu", batch_size=4)
    expected = [plain_sentence_score(folders[kind], text) for text in SENTENCES]
    scores = scorer.score(SENTENCES)
    np.testing.assert_allclose(scores, expected, atol=2e-4)
    assert np.ptp(scores) > 1
    assert scorer.kind == ("causal" if kind in CAUSAL else "masked")
    assert scorer.name_or_path == str(folders[kind])


@pytest.mark.parametrize("kind", CAUSAL + MASKED)
def test_score_is_invariant_to_the_batch(kind, folders):
    together = SentenceScorer.from_pretrained(folders[kind], device="cpu").score(SENTENCES)
    alone = SentenceScorer.from_pretrained(folders[kind], device="cpu", batch_size=1)
    np.testing.assert_allclose(together, [alone.score([text])[0] for text in SENTENCES], atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_score_of_known_texts_reads_nothing(kind):
    model = tiny_model(kind)
    scorer = SentenceScorer(model, tiny_tokenizer(kind))
    counted = ReadTokens(model)
    first = scorer.score([SENTENCES[0], SENTENCES[1], SENTENCES[0]])
    passes = counted.passes
    again = scorer.score([SENTENCES[1], SENTENCES[0]])
    assert counted.passes == passes
    assert [first[0], first[1]] == [first[2], again[0]]
    assert again[1] == first[0]


def test_score_caches_the_latest_texts_only(monkeypatch):
    monkeypatch.setattr(rescoring, "CACHED_SCORES", 2)
    model = tiny_model("gpt2")
    scorer = SentenceScorer(model, tiny_tokenizer("gpt2"))
    counted = ReadTokens(model)
    assert len(scorer.score(SENTENCES)) == len(SENTENCES)
    for text, passes in [(SENTENCES[-2], 1), (SENTENCES[0], 2), (SENTENCES[-2], 2), (SENTENCES[-1], 3)]:
        scorer.score([text])
        assert counted.passes == passes, text


@pytest.mark.parametrize("kind", CAUSAL + MASKED)
def test_score_of_empty_input_is_fine(kind):
    scorer = SentenceScorer(tiny_model(kind), tiny_tokenizer(kind))
    assert scorer.score([]).shape == (0,)
    empty, sentence = scorer.score(["", "go"])
    assert np.isfinite(sentence)
    assert (empty == 0) if kind in MASKED else (empty < 0)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_score_of_too_long_text_raises(kind):
    scorer = SentenceScorer(tiny_model(kind), tiny_tokenizer(kind))
    with pytest.raises(ValueError, match=r"a text has \d+ tokens and the language model takes 40; score shorter"):
        scorer.score([" ".join(SENTENCES * 2)])


def test_score_of_one_string_raises():
    scorer = SentenceScorer(tiny_model("gpt2"), tiny_tokenizer("gpt2"))
    with pytest.raises(ValueError, match="texts is one string 'go'; give a list"):
        scorer.score("go")


def test_sentence_scorer_without_mask_token_raises():
    with pytest.raises(ValueError, match="needs a mask token"):
        SentenceScorer(tiny_model("bert"), tiny_tokenizer("gpt2"))


def score_word_by_word(scorer, sentence):
    words = tuple(sentence.split())
    pairs = [(words[:place], word) for place, word in enumerate(words)]
    return scorer.score_words(pairs).sum() + scorer.score_ends([words])[0]


@pytest.mark.parametrize("kind", [*CAUSAL, "opt", "mamba"])
def test_score_words_of_a_sentence_sums_up_to_its_score(kind):
    model, tokenizer = tiny_model(kind), tiny_tokenizer(kind)
    expected = SentenceScorer(model, tokenizer).score(SENTENCES)
    scorer = CausalWordScorer(model, tokenizer)
    np.testing.assert_allclose([score_word_by_word(scorer, text) for text in SENTENCES], expected, atol=2e-4)


@pytest.mark.parametrize("kind", CAUSAL)
def test_score_words_matches_difference_of_plain_scores(kind, folders):
    model = AutoModelForCausalLM.from_pretrained(folders[kind])
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    scorer = CausalWordScorer.from_pretrained(folders[kind], device="cpu", batch_size=2)
    histories = [(), ("turn",), ("turn", "on"), ("turn", "on", "the")]
    pairs = [(history, word) for history in histories for word in ("kitchen", "on", "xylophone", "don't")]
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id

    def plain(words):
        return plain_causal_score(model, [begin, *tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]])

    expected = [plain((*history, word)) - plain(history) for history, word in pairs]
    np.testing.assert_allclose(scorer.score_words(pairs), expected, atol=2e-4)
    assert scorer.name_or_path == str(folders[kind])


@pytest.mark.parametrize("kind", CAUSAL)
def test_score_words_is_cached_and_the_same_without_cache(kind):
    model, tokenizer = tiny_model(kind), tiny_tokenizer(kind)
    words = tuple(SENTENCES[0].split())
    pairs = [(words[:place], word) for place in range(len(words)) for word in ("the", words[place])]
    scorer = CausalWordScorer(model, tokenizer)
    counted = ReadTokens(model)
    first = scorer.score_words(pairs)
    passes = counted.passes
    np.testing.assert_array_equal(scorer.score_words(pairs[::-1]), first[::-1])
    assert counted.passes == passes
    fresh = [CausalWordScorer(model, tokenizer).score_words([pair])[0] for pair in pairs]
    np.testing.assert_allclose(first, fresh, atol=1e-4)


def test_score_words_along_a_sentence_reads_each_token_once(monkeypatch):
    read = []
    for kept_bytes in (0, 2**20):
        monkeypatch.setattr(rescoring, "KEPT_BYTES", kept_bytes)
        model, tokenizer = tiny_model("gpt2"), tiny_tokenizer("gpt2")
        scorer = CausalWordScorer(model, tokenizer)
        counted = ReadTokens(model)
        score_word_by_word(scorer, SENTENCES[0])
        for place, word in enumerate(words := SENTENCES[0].split()):
            scorer.score_words([(tuple(words[:place]), word[::-1])])
        read.append(counted.tokens)
    assert read[1] < 0.7 * read[0]


def test_score_words_without_pairs_gives_nothing():
    scorer = CausalWordScorer(tiny_model("gpt2"), tiny_tokenizer("gpt2"))
    assert scorer.score_words([]).shape == scorer.score_ends([]).shape == (0,)


def test_score_ends_without_end_token_is_zero():
    tokenizer = tiny_tokenizer("llama")
    tokenizer.eos_token = None
    scorer = CausalWordScorer(tiny_model("llama"), tokenizer)
    assert scorer.score_ends([("go",), ()]).tolist() == [0.0, 0.0]


def test_causal_word_scorer_of_masked_model_raises():
    with pytest.raises(ValueError, match="BertForMaskedLM is a masked language model.*take a causal one"):
        CausalWordScorer(tiny_model("bert"), tiny_tokenizer("bert"))


def test_causal_word_scorer_with_tokens_that_span_words_raises():
    with pytest.raises(ValueError, match="tokens that span words"):
        CausalWordScorer(tiny_model("llama"), word_spanning_tokenizer())


class FixedScorer:
    """Gives each text the score that it is told to."""

    def __init__(self, **scores):
        self.scores = scores

    def score(self, texts):
        return np.array([self.scores[text.replace(" ", "_") or "empty"] for text in texts])


def hypothesis(text, score):
    words = [Word(word, 0, 1, 1.0) for word in text.split()]
    return Hypothesis(text, [1], score, acoustic_score=score + 3, lm_score=-3.0, words=words)


def test_rescore_adds_weighted_scores_and_sorts():
    nbest = [[hypothesis("chicken nights", -1.0), hypothesis("kitchen lights", -2.0)], [], [hypothesis("", -5.0)]]
    scorer = FixedScorer(chicken_nights=-20.0, kitchen_lights=-10.0, empty=-4.0)
    rescored = rescore(nbest, scorer, weight=0.5, word_bonus=0.25)
    assert [[(h.text, h.score) for h in hypotheses] for hypotheses in rescored] == [
        [("kitchen lights", -2.0 - 5.0 + 0.5), ("chicken nights", -1.0 - 10.0 + 0.5)],
        [],
        [("", -7.0)],
    ]
    assert [(h.acoustic_score, h.lm_score) for h in rescored[0]] == [(1.0, -3.0), (2.0, -3.0)]
    assert nbest[0][0].score == -1.0


def test_rescore_with_weight_zero_keeps_the_order_of_ties():
    nbest = [[hypothesis("b", -1.0), hypothesis("a", -1.0)]]
    assert rescore(nbest, FixedScorer(a=0.0, b=-9.0), weight=0.0) == nbest


def test_rescore_of_nothing_gives_nothing():
    scorer = SentenceScorer(tiny_model("gpt2"), tiny_tokenizer("gpt2"))
    assert rescore([], scorer, weight=1.0) == []
    assert rescore([[]], scorer, weight=1.0) == [[]]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"weight": np.nan}, "the weight nan .* need to be finite"),
        ({"weight": np.inf}, "the weight inf"),
        ({"weight": -1.0}, "the weight 0 or more"),
        ({"weight": 1.0, "word_bonus": np.nan}, "the word_bonus nan"),
        ({"weight": 1.0, "nbest": 0}, "nbest 0; it needs to be 1 or more"),
    ],
)
def test_rescoring_of_unusable_numbers_raises(numbers, message):
    with pytest.raises(ValueError, match=message):
        Rescoring(FixedScorer(), **numbers)
