"""Modified Kneser-Ney: against lmplz's figures, against the formulas by dictionary, and as a distribution."""

import itertools
import logging
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_speechft.decoding.kneser_ney import estimate_kneser_ney
from hf_speechft.decoding.ngram import score_word

COMMANDS = """
turn on the light
turn off the light
turn on the radio
turn on the kitchen light
turn off the kitchen light
turn up the radio
turn down the radio
turn up the heating
open the door
open the kitchen door
close the door
close the window
dim the light
""".strip().split("\n")

# What lmplz of KenLM (sources of the PyPI package kenlm 0.3.0) wrote for COMMANDS with -o 3 --discount_fallback.
# Its discounts: order 1 the fall-back, order 2 0.655172 0.82069 3, order 3 0.526316 1.29825 3.
LMPLZ = """
-1.6362143	<unk>	0
0	<s>	-0.38995016
-0.8294178	</s>	0
-1.3875723	turn	-0.18364437
-0.65849066	the	-0.067407794
-1.2304488	light	-0.38685107
-0.1867987	light </s>	0
-0.39652413	<s> turn	-0.11613942
-0.9467412	turn on	0
-0.31099084	on the	-0.2787536
-1.2978567	the light	0
-0.6758136	kitchen light	-0.18767312
-1.4549801	the kitchen	-0.21596277
-0.9689674	<s> open	-0.18767312
-1.3643553	<s> dim	-0.2787536
-0.1867987	the light </s>
-0.08830116	kitchen door </s>
-1.0628806	<s> turn on
-0.31099084	turn on the
-0.7342308	on the light
-0.44103092	the kitchen light
-0.8364478	<s> turn down
-0.30790633	down the radio
-0.5433397	the kitchen door
""".strip().split("\n")


def find_node(lm, words):
    """Node of an n-gram, by looking through the children."""
    node = 0
    for word in words:
        children = range(lm.arrays.first_child[node], lm.arrays.first_child[node + 1])
        (node,) = [child for child in children if lm.words[lm.arrays.word[child]] == word]
    return node


def test_estimate_matches_lmplz():
    lm = estimate_kneser_ney(COMMANDS, 3)
    assert lm.counts == [18, 28, 33]
    for line in LMPLZ:
        log10_prob, ngram, *log10_backoff = line.split("\t")
        node = find_node(lm, ngram.split())
        assert lm.arrays.log10_prob[node] == pytest.approx(float(log10_prob), abs=3e-7), line
        assert lm.arrays.log10_backoff[node] == pytest.approx(float(*log10_backoff or [0]), abs=3e-7), line


# Made by Model.score of kenlm 0.3.0 on lmplz's file: with and without sentence end.
@pytest.mark.parametrize(
    ("sentence", "with_end", "without_end"),
    [
        ("turn on the light", -2.69143, -2.50463),
        ("turn off the radio", -3.41899, -3.06428),
        ("open the fridge door", -4.54376, -4.35696),
        ("the the", -2.67116, -1.77434),
        ("", -1.21937, 0.0),
    ],
)
def test_estimate_scores_as_kenlm(sentence, with_end, without_end):
    lm = estimate_kneser_ney(COMMANDS, 3)
    assert (lm.score(sentence), lm.score(sentence, eos=False)) == pytest.approx((with_end, without_end), abs=2e-5)


class ByFormula:
    """The formulas word for word, with dictionaries."""

    def __init__(self, sentences, order):
        padded = [("<s>", *sentence, "</s>") for sentence in sentences]
        self.order = order
        self.words = sorted({word for sentence in padded for word in sentence} - {"<s>"} | {"<unk>"})
        occurrences = Counter(
            sentence[start : start + length]
            for sentence in padded
            for length in range(1, order + 1)
            for start in range(len(sentence) - length + 1)
        )
        before = defaultdict(set)
        for sentence in padded:
            for start in range(1, len(sentence)):
                for end in range(start + 1, len(sentence) + 1):
                    before[sentence[start:end]].add(sentence[start - 1])
        self.counts = defaultdict(dict)  # context -> word -> adjusted count
        for ngram, occurred in occurrences.items():
            if ngram == ("<s>",):
                continue
            is_real = len(ngram) == order or ngram[0] == "<s>"
            self.counts[ngram[:-1]][ngram[-1]] = occurred if is_real else len(before[ngram])
        self.discounts = [self.make_discounts(length) for length in range(order)]

    def make_discounts(self, context_length):
        frequencies = Counter(
            count
            for context, words in self.counts.items()
            if len(context) == context_length
            for count in words.values()
        )
        n1, n2, n3, n4 = (frequencies[count] for count in (1, 2, 3, 4))
        if 0 in (n1, n2, n3):
            return {1: 0.5, 2: 1.0, 3: 1.5}
        y = n1 / (n1 + 2 * n2)
        discounts = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3}
        return discounts if min(discounts.values()) > 0 else {1: 0.5, 2: 1.0, 3: 1.5}

    def prob(self, context, word):
        context = context[-self.order + 1 :] if self.order > 1 else ()
        if context not in self.counts:
            return self.prob(context[1:], word)
        lower = self.prob(context[1:], word) if context else 1 / len(self.words)
        counts = self.counts[context]
        discounts = self.discounts[len(context)]
        taken = {seen: discounts[min(count, 3)] for seen, count in counts.items()}
        kept = counts.get(word, 0) - taken.get(word, 0.0)
        return (kept + sum(taken.values()) * lower) / sum(counts.values())


corpora = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=6).map(tuple), min_size=1, max_size=25
)


def states(lm, contexts):
    """The model's state after each of some contexts, which begin with <s> or anywhere."""
    for context in contexts:
        state = lm.begin_state if context[:1] == ("<s>",) else 0
        for word in context[context[:1] == ("<s>",) :]:
            _, state = score_word(lm.arrays, state, lm.word_id(word))
        yield context, state


@settings(max_examples=40)
@given(corpora, st.integers(1, 4))
def test_estimate_random_corpus_matches_formulas(sentences, order):
    expected = ByFormula(sentences, order)
    lm = estimate_kneser_ney([" ".join(sentence) for sentence in sentences], order)
    inner = [context for length in range(3) for context in itertools.product("abx", repeat=length)]
    for context, state in states(lm, [*inner, *(("<s>", *context) for context in inner), *sentences]):
        for word in expected.words:
            log10_prob, _ = score_word(lm.arrays, state, lm.word_id(word))
            known = tuple(word if word in expected.words or word == "<s>" else "<unk>" for word in context)
            assert 10**log10_prob == pytest.approx(expected.prob(known, word), rel=1e-5)


@settings(max_examples=40)
@given(corpora, st.integers(1, 5))
def test_estimate_probabilities_of_each_context_sum_to_one(sentences, order):
    lm = estimate_kneser_ney([" ".join(sentence) for sentence in sentences], order)
    contexts = range(lm.first_nodes[lm.order - 1])  # all but those of the highest order
    predicted = [index for index, word in enumerate(lm.words) if word != "<s>"]
    sums = [sum(10 ** score_word(lm.arrays, context, word)[0] for word in predicted) for context in contexts]
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)


def test_estimate_by_hand_for_unigrams():
    """Counts a 4, b 1, </s> 2 with the fall-back discounts 1.5, 0.5 and 1: 3 of 7 are kept back for 4 words."""
    lm = estimate_kneser_ney(["a a a", "a b"], 1)
    expected = {"<unk>": 3 / 4 / 7, "a": (2.5 + 3 / 4) / 7, "b": (0.5 + 3 / 4) / 7, "</s>": (1 + 3 / 4) / 7, "<s>": 1}
    probs = {word: 10 ** float(lm.arrays.log10_prob[index + 1]) for index, word in enumerate(lm.words)}
    assert probs == pytest.approx(expected, rel=1e-6)


def test_estimate_order_above_the_longest_sentence_changes_nothing(caplog):
    with caplog.at_level(logging.INFO, logger="hf_speechft"):
        lm = estimate_kneser_ney(["a b", "a"], 9)
    assert lm.order == 4
    assert "No sentence has n-grams of order 9; the model has order 4" in caplog.text
    expected = ByFormula([("a", "b"), ("a",)], 9)
    for context, state in states(lm, [(), ("<s>",), ("<s>", "a"), ("<s>", "a", "b"), ("b", "a")]):
        probs = [10 ** score_word(lm.arrays, state, lm.word_id(word))[0] for word in expected.words]
        assert probs == pytest.approx([expected.prob(context, word) for word in expected.words], rel=1e-5)


def test_estimate_small_text_logs_its_discounts(caplog):
    with caplog.at_level(logging.INFO, logger="hf_speechft"):
        estimate_kneser_ney(COMMANDS, 3)
    assert [record.getMessage() for record in caplog.records] == [
        "The text is too small for the discounts of order 1; they are 0.5, 1 and 1.5"
    ]


def test_estimate_discount_of_zero_is_replaced(caplog):
    """Counts 1, 1, 1, 1, 2 and 3 give D2 = 0, which could keep nothing back for words unseen after a context."""
    with caplog.at_level(logging.INFO, logger="hf_speechft"):
        lm = estimate_kneser_ney(["a b c e e f f f"], 1)
    assert "The text is too small for the discounts of order 1" in caplog.text
    assert 10 ** lm.score("e", bos=False, eos=False) == pytest.approx(
        (2 - 1.0 + (4 * 0.5 + 1.0 + 1.5) / 7) / 9, rel=1e-6
    )


def test_estimate_skips_lines_without_words():
    lm = estimate_kneser_ney(["", "a b\n", " \t\r\n", "b\r\n"], 2)
    expected = estimate_kneser_ney(["a b", "b"], 2)
    assert lm.words == expected.words
    np.testing.assert_array_equal(lm.arrays.log10_prob, expected.arrays.log10_prob)


@pytest.mark.parametrize(
    ("lines", "order", "message"),
    [
        (["a"], 0, "order is 0; it needs to be 1 or more"),
        ([], 2, "the text has no words; give sentences, one a line"),
        (["", "\n"], 2, "the text has no words"),
        ("a b", 2, "lines is one string; give a list of sentences"),
        (["a", "b </s> c"], 2, "'b </s> c' holds </s>, which the model itself uses; leave it out"),
        (["<unk>"], 1, "'<unk>' holds <unk>"),
    ],
)
def test_estimate_bad_input_raises(lines, order, message):
    with pytest.raises(ValueError, match=message):
        estimate_kneser_ney(lines, order)
