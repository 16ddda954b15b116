"""The reference for the searches: every alignment of a small problem, summed up and scored by naive means."""

import itertools
import math
from collections import defaultdict

import numpy as np

STYLES = {
    "delimiter": ["<pad>", "|", "a", "b"],
    "sentencepiece": ["<pad>", "▁a", "b", "▁", "▁ab"],
    "wordpiece": ["a", "[UNK]", "##b", "<pad>", "ba"],
    "byte-level": ["Ġa", "b", "<pad>", "Ġ"],
    "no word marks": ["<pad>", "你", "好", "你好"],
}
BLANKS = {style: tokens.index("<pad>") for style, tokens in STYLES.items()}


def random_log_probs(generator, steps, vocab, batch=1, peakedness=2.0):
    logits = peakedness * generator.standard_normal((batch, steps, vocab))
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def written_words(style, tokens):
    """Words of a token sequence, by string replacement as each kind of vocabulary defines it."""
    if style == "delimiter":
        return "".join(tokens).replace("|", " ").split()
    if style == "sentencepiece":
        return "".join(tokens).replace("▁", " ").split()
    if style == "byte-level":
        return "".join(tokens).replace("Ġ", " ").split()
    if style == "wordpiece":
        return " ".join(tokens).replace(" ##", "").replace("##", "").split()
    return list("".join(tokens))


def all_hypotheses(
    log_probs, style, *, lm=None, lm_weight=0.0, word_bonus=0.0, unknown_word_score=0.0, hotwords=None, phrases=None
):
    """Score of every token sequence that has an alignment, best first: `(score, acoustic, lm, ids, words)`.

    Args:
        log_probs: `(steps, vocab)`.
        style: A key of `STYLES`.
        lm: Has `score(sentence)` in log10 and, for `unknown_word_score`, `words`.
        lm_weight, word_bonus, unknown_word_score, hotwords: As the decoder's.
        phrases: Sentences as tuples of words.
    """
    vocabulary, blank = STYLES[style], BLANKS[style]
    special = [index for index, token in enumerate(vocabulary) if token == "[UNK]"]
    probabilities = defaultdict(float)
    for alignment in itertools.product(range(len(vocabulary)), repeat=len(log_probs)):
        ids = tuple(key for key, _ in itertools.groupby(alignment) if key != blank)
        if not set(ids) & set(special):
            probabilities[ids] += math.exp(sum(float(log_probs[step, i]) for step, i in enumerate(alignment)))
    found = []
    for ids, probability in probabilities.items():
        words = written_words(style, [vocabulary[i] for i in ids])
        if phrases is not None and tuple(words) not in phrases:
            continue
        acoustic = math.log(probability) if probability else -math.inf
        lm_score = math.log(10) * lm.score(" ".join(words)) if lm else 0.0
        score = acoustic + lm_weight * lm_score + word_bonus * len(words)
        if unknown_word_score:
            score += unknown_word_score * sum(word not in lm.words for word in words)
        for hotword, weight in (hotwords or {}).items():
            hot = hotword if isinstance(hotword, tuple) else tuple(hotword.split())
            places = range(len(words) - len(hot) + 1)
            score += weight * sum(tuple(words[place : place + len(hot)]) == hot for place in places)
        if score > -math.inf:
            found.append((score, acoustic, lm_score, list(ids), words))
    return sorted(found, key=lambda one: -one[0])
