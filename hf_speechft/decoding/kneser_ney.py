"""Modified Kneser-Ney smoothing: an n-gram language model from sentences.

With a(g) the adjusted count of an n-gram g = (context, w), and D the discounts of its order,

    P(w | context) = (a(g) - D(a(g))) / sum of a over the context's words + gamma(context) P(w | context[1:])
    gamma(context) = sum of D(a) over the context's words / sum of a over the context's words

The adjusted count is how often g occurs where g has the highest order or begins with <s>; otherwise it is how many
different words stand before g. Unigrams are interpolated with the uniform distribution over all words but <s>, with
<unk> among them.

Source: Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling", TR-10-98, section 3
(equations 24 to 26); the treatment of sentence ends, <unk> and small texts is that of KenLM's lmplz (Heafield et al.
2013, "Scalable modified Kneser-Ney language model estimation", section 3).
"""

import logging
from array import array
from collections import defaultdict
from collections.abc import Iterable
from itertools import count
from typing import NamedTuple

import numpy as np

from .ngram import SPECIAL_WORDS, NGramLM, NodeRows, join_orders

__all__ = ["estimate_kneser_ney"]

logger = logging.getLogger(__name__)

UNKNOWN, BEGIN, END = range(3)
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # of lmplz --discount_fallback


class _Order(NamedTuple):
    """The distinct n-grams of one order, as nodes of the trie.

    Attributes:
        parent: `(n-grams,)` node of each n-gram's context.
        word: `(n-grams,)` last word of each.
        suffix: `(n-grams,)` node of each without its first word.
        occurrences: `(n-grams,)` how often each occurs.
        first_node: Node of the first; the others follow.
    """

    parent: np.ndarray
    word: np.ndarray
    suffix: np.ndarray
    occurrences: np.ndarray
    first_node: int


def estimate_kneser_ney(lines: Iterable[str], order: int) -> NGramLM:
    """Estimate an n-gram language model with interpolated modified Kneser-Ney smoothing.

    Where a text is so small that an order's discounts are undefined or out of range, they are 0.5, 1 and 1.5, and the
    log says so.

    Args:
        lines: Sentences, words with spaces between them; lines without words are skipped.
        order: Words in the longest n-grams, 1 or more. If no sentence is as long, with <s> and </s>, the model has the
            order of the longest sentence, which gives the same probabilities.

    Returns:
        The model. As in files of lmplz, the unigram <s> has probability 1 and is never predicted.

    Raises:
        ValueError: The order is below 1, there are no words, or a line holds <s>, </s> or <unk>.

    >>> lm = estimate_kneser_ney(["a b", "a c"], order=2)
    >>> round(10 ** lm.score("a", eos=False), 4)
    0.6
    """
    if order < 1:
        raise ValueError(f"order is {order}; it needs to be 1 or more")
    if isinstance(lines, str):
        raise ValueError("lines is one string; give a list of sentences or an open file")
    words, tokens = _read_tokens(lines)
    orders = _count_ngrams(tokens, len(words), order)
    if len(orders) < order:
        logger.info("No sentence has n-grams of order %d; the model has order %d", order, len(orders))
    return NGramLM(len(orders), words, join_orders(_interpolate(orders, _adjust_counts(orders))))


def _read_tokens(lines: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Give words ids in the order in which they come, and write all sentences in a row, each as <s> words </s>."""
    ids = defaultdict(count().__next__)
    for word in SPECIAL_WORDS:
        ids[word]
    special, tokens = set(SPECIAL_WORDS), array("i")
    for line in lines:
        words = line.split()
        if not words:
            continue
        if reserved := sorted(special.intersection(words)):
            raise ValueError(f"{line.strip()!r} holds {reserved[0]}, which the model itself uses; leave it out")
        tokens.append(BEGIN)
        tokens.extend(map(ids.__getitem__, words))
        tokens.append(END)
    if not tokens:
        raise ValueError("the text has no words; give sentences, one a line")
    return list(ids), np.array(tokens, dtype=np.int64)


def _count_ngrams(tokens: np.ndarray, vocab: int, order: int) -> list[_Order]:
    """Find the distinct n-grams of each order up to `order` that the sentences have.

    An n-gram is known by its context and its last word, and contexts are numbered one order earlier, so that equal
    n-grams are equal integers, and sorting them sorts the trie's nodes.
    """
    words = np.arange(vocab)
    zeros = np.zeros(vocab, dtype=np.int64)
    is_predicted = tokens != BEGIN
    orders = [_Order(zeros, words, zeros, np.bincount(tokens[is_predicted], minlength=vocab), 1)]
    nodes = tokens + 1  # of the n-gram that ends at each token; 0 where it would begin before <s>
    for _ in range(1, order):
        contexts = np.concatenate([[0], nodes[:-1]]) * is_predicted  # (tokens,)
        ends = np.flatnonzero(contexts)
        if not len(ends):
            break
        keys, firsts, inverse, counts = np.unique(
            contexts[ends] * vocab + tokens[ends], return_index=True, return_inverse=True, return_counts=True
        )
        first_node = orders[-1].first_node + len(orders[-1].word)
        orders.append(_Order(keys // vocab, keys % vocab, nodes[ends[firsts]], counts, first_node))
        nodes = np.zeros_like(nodes)
        nodes[ends] = first_node + inverse
    return orders


def _adjust_counts(orders: list[_Order]) -> list[np.ndarray]:
    """Count the different words before each n-gram, but occurrences where there are none, as before <s>."""
    adjusted = []
    for lower, higher in zip(orders, orders[1:], strict=False):
        words_before = np.bincount(higher.suffix - lower.first_node, minlength=len(lower.word))
        adjusted.append(np.where(words_before > 0, words_before, lower.occurrences))
    return [*adjusted, orders[-1].occurrences]


def _interpolate(orders: list[_Order], adjusted: list[np.ndarray]) -> list[NodeRows]:
    """Compute probabilities from the unigrams up, and back-offs, as log10."""
    probs = [np.array([1 / (len(orders[0].word) - 1)])]  # of the empty n-gram: the uniform distribution without <s>
    backoffs = []
    for ngrams, counts in zip(orders, adjusted, strict=True):
        first_lower = ngrams.first_node - len(probs[-1])
        context = ngrams.parent - first_lower
        discount = _discounts(counts, len(probs))[np.minimum(counts, 3)]
        totals = np.bincount(context, counts, minlength=len(probs[-1]))
        kept_back = np.bincount(context, discount, minlength=len(probs[-1]))
        gamma = np.divide(kept_back, totals, out=np.ones_like(totals), where=totals > 0)
        lower = probs[-1][ngrams.suffix - first_lower]
        probs.append((counts - discount) / totals[context] + gamma[context] * lower)
        backoffs.append(gamma)
    probs[1][BEGIN] = 1.0
    backoffs.append(np.ones(len(probs[-1])))
    return [
        NodeRows(ngrams.parent, ngrams.word, ngrams.suffix, np.minimum(np.log10(prob), 0.0), np.log10(backoff))
        for ngrams, prob, backoff in zip(orders, probs[1:], backoffs[1:], strict=True)
    ]


def _discounts(counts: np.ndarray, order: int) -> np.ndarray:
    """Discounts by adjusted count, `(4,)` for 0, 1, 2, and 3 or more; equation 26 of Chen and Goodman."""
    ones, twos, threes, fours = np.bincount(counts, minlength=5)[1:5].tolist()
    if ones and twos and threes:
        share = ones / (ones + 2 * twos)
        rarer, more_frequent = np.array([ones, twos, threes]), np.array([twos, threes, fours])
        discounts = np.array([1, 2, 3]) - np.array([2, 3, 4]) * share * more_frequent / rarer
        # A discount of 0 could leave nothing for words that were not seen after a context.
        if (discounts > 0).all():
            return np.array([0.0, *discounts])
    logger.info(
        "The text is too small for the discounts of order %d; they are %g, %g and %g", order, *FALLBACK_DISCOUNTS
    )
    return np.array([0.0, *FALLBACK_DISCOUNTS])
