"""A prefix of the beam search: what is known about a token sequence, and what one more token makes of it.

Beside its tokens, a prefix knows where it stands in the lexicon, the language model, the hot words and the phrases.
They all read the piece of the byte stream (`units.py`) that the next token writes.

What orders prefixes is

    acoustic + lm_weight * lm + bonuses + look-ahead

where the look-ahead (the best word that the open word can still become, the part of a hot word that has been said)
keeps unfinished words in the race and is no part of a final score.
"""

import math
from typing import NamedTuple

import numpy as np

from .automaton import Automaton, follow
from .compiled import compiled, compiled_small
from .hotwords import HotWords
from .ngram import NGramArrays, score_word
from .units import SPACE

__all__ = [
    "LN_10",
    "NODE",
    "Knowledge",
    "ceiling",
    "close_word",
    "extend",
    "find_child",
    "open_word_scores",
    "start_node",
]

LN_10 = math.log(10.0)
UNKNOWN_WORD, END_OF_SENTENCE = 0, 2  # ids in every `NGramLM`

# A prefix. Scores are natural logarithms.
NODE = np.dtype(
    [
        ("parent", np.int32),
        ("token", np.int32),
        ("first_child", np.int32),
        ("next_sibling", np.int32),
        ("place", np.int32),  # in the beam, or -1
        ("is_open", np.bool_),  # inside a word
        ("lexicon", np.int32),  # state reached by the open word, -1 for a word that the language model doesn't know
        ("lm", np.int32),
        ("hot", np.int32),
        ("phrase", np.int32),
        ("lm_score", np.float64),  # of the words that are complete
        ("bonus", np.float64),  # of words and hot words so far
        ("static", np.float64),  # all that is added to the acoustic score to order the beam
        ("closed_lm", np.int32),  # state and score after the open word's end; -1 while not computed
        ("closed_score", np.float64),
    ],
    align=True,
)


class Knowledge(NamedTuple):
    """What a search knows besides the logits; parts that are not used have one empty state.

    Attributes:
        pieces: uint8, the pieces of all tokens in a row.
        piece_start: `(vocab + 1,)` int32.
        is_searched: `(vocab,)` boolean.
        has_lm: Whether there is a language model.
        ngrams: The language model.
        begin_state: Its state at the start of a sentence.
        lexicon: The language model's words; `value` is a word's id.
        best_word: `(states,)` float64, for each state of the lexicon the best unigram log-probability of its words,
            natural logarithm.
        unknown_score: Log-probability of an unknown word alone, natural logarithm.
        lm_weight: Weight of the language model.
        word_bonus: Score for each word.
        unknown_word_score: Score for each word that the language model does not know, beside its own.
        hot_words: Phrases whose occurrence is rewarded.
        has_phrases: Whether only certain sentences may come out.
        phrases: Those sentences.
        closes_inside: Whether some token writes a space behind other text, and so ends a word that it may have begun.
        most_gain: What words and hot words can add at most by one token, beside the language model.
    """

    pieces: np.ndarray
    piece_start: np.ndarray
    is_searched: np.ndarray
    has_lm: bool
    ngrams: NGramArrays
    begin_state: int
    lexicon: Automaton
    best_word: np.ndarray
    unknown_score: float
    lm_weight: float
    word_bonus: float
    unknown_word_score: float
    hot_words: HotWords
    has_phrases: bool
    phrases: Automaton
    closes_inside: bool
    most_gain: float


@compiled
def open_word_scores(lexicon: Automaton, unigram_scores: np.ndarray) -> np.ndarray:
    """Best score among the words that begin as each state of the lexicon does.

    Args:
        lexicon: A trie, whose states are in the order of their depth.
        unigram_scores: `(words,)` float64, by `lexicon.value`.

    Returns:
        `(states,)` float64.
    """
    best = np.full(len(lexicon.value), -np.inf)
    for state in range(len(best) - 1, -1, -1):
        if lexicon.value[state] >= 0:
            best[state] = max(best[state], unigram_scores[lexicon.value[state]])
        for arc in range(lexicon.first_arc[state], lexicon.first_arc[state + 1]):
            best[state] = max(best[state], best[lexicon.target[arc]])
    return best


@compiled_small
def _read_byte(node: np.ndarray, byte: int, knowledge: Knowledge) -> bool:
    """Move on in hot words and phrases; False where no phrase goes on so."""
    hot_words = knowledge.hot_words
    node.hot = hot_words.next[node.hot, hot_words.symbol[byte]]
    node.bonus += hot_words.bonus[node.hot]
    if knowledge.has_phrases:
        node.phrase = follow(knowledge.phrases, node.phrase, byte)
        return node.phrase >= 0
    return True


@compiled_small
def _is_known(node: np.ndarray, knowledge: Knowledge) -> bool:
    """Whether the open word, as it is, is one of the language model's."""
    return node.lexicon >= 0 and knowledge.lexicon.value[node.lexicon] >= 0


@compiled_small
def _score_open_word(node: np.ndarray, knowledge: Knowledge) -> None:
    """Ask the language model for the open word, once for all tokens that may end it."""
    if node.closed_lm < 0:
        word = knowledge.lexicon.value[node.lexicon] if _is_known(node, knowledge) else UNKNOWN_WORD
        log10_prob, state = score_word(knowledge.ngrams, node.lm, word)
        node.closed_lm, node.closed_score = state, log10_prob * LN_10


@compiled_small
def close_word(node: np.ndarray, knowledge: Knowledge) -> bool:
    """End the node's open word; False where no phrase goes on so."""
    if knowledge.has_lm:
        _score_open_word(node, knowledge)
        node.lm_score += node.closed_score
        node.lm = node.closed_lm
        if not _is_known(node, knowledge):
            node.bonus += knowledge.unknown_word_score
    node.bonus += knowledge.word_bonus
    node.is_open = False
    return _read_byte(node, SPACE, knowledge)


@compiled_small
def _look_ahead(node: np.ndarray, knowledge: Knowledge) -> float:
    """What the open word and hot words begun may still bring."""
    value = knowledge.hot_words.potential[node.hot]
    if node.is_open:
        value += knowledge.word_bonus
        if knowledge.has_lm:
            value += _best_ending(node.lexicon, knowledge)
    return value


@compiled_small
def _best_ending(lexicon: int, knowledge: Knowledge) -> float:
    """What the language model adds at most, without context, to a word that begins so."""
    if lexicon >= 0:
        return knowledge.lm_weight * knowledge.best_word[lexicon]
    return knowledge.lm_weight * knowledge.unknown_score + knowledge.unknown_word_score


@compiled_small
def extend(parent: np.ndarray, token: int, knowledge: Knowledge, node: np.ndarray) -> bool:
    """Make `node` the prefix `parent` with one more token; False where no phrase goes on so."""
    first, end = knowledge.piece_start[token], knowledge.piece_start[token + 1]
    if knowledge.has_lm and parent.is_open and knowledge.pieces[first] == SPACE:
        _score_open_word(parent, knowledge)
    node.token, node.first_child, node.next_sibling, node.place = token, -1, -1, -1
    node.is_open, node.lexicon, node.lm = parent.is_open, parent.lexicon, parent.lm
    node.hot, node.phrase = parent.hot, parent.phrase
    node.lm_score, node.bonus = parent.lm_score, parent.bonus
    node.closed_lm, node.closed_score = parent.closed_lm, parent.closed_score
    for place in range(first, end):
        byte = knowledge.pieces[place]
        if byte == SPACE:
            if node.is_open and not close_word(node, knowledge):
                return False
            continue
        if not node.is_open:
            node.is_open, node.lexicon = True, 0
        node.closed_lm = -1
        if knowledge.has_lm and node.lexicon >= 0:
            node.lexicon = follow(knowledge.lexicon, node.lexicon, byte)
        if not _read_byte(node, byte, knowledge):
            return False
    node.static = knowledge.lm_weight * node.lm_score + node.bonus + _look_ahead(node, knowledge)
    return True


@compiled_small
def start_node(node: np.ndarray, knowledge: Knowledge) -> None:
    """Make `node` the empty prefix."""
    node.parent, node.token, node.first_child, node.next_sibling, node.place = -1, -1, -1, -1, 0
    node.is_open, node.lexicon, node.lm = False, 0, knowledge.begin_state
    node.hot, node.phrase = knowledge.hot_words.start, 0
    node.lm_score, node.bonus, node.static, node.closed_lm, node.closed_score = 0.0, 0.0, 0.0, -1, 0.0


@compiled_small
def find_child(nodes: np.ndarray, parent: int, token: int) -> int:
    """The node of `parent` with one more token, or -1.

    Nodes are kept when they leave the beam, so that one that comes back is the parent of the prefixes that it had.
    """
    child = nodes[parent].first_child
    while child >= 0 and nodes[child].token != token:
        child = nodes[child].next_sibling
    return child


@compiled_small
def ceiling(node: np.ndarray, begins_with_space: bool, knowledge: Knowledge) -> float:
    """What can be added at most to the acoustic score of this prefix with one more token.

    The language model only lowers a score: by the open word if the token ends it, else by the best word that the open
    one can still become. Where a token may write a word and end it, as one of several characters does in a vocabulary
    without word marks, the word's score in its context may be anything up to 0.
    """
    score = knowledge.lm_weight * node.lm_score + node.bonus + knowledge.most_gain
    if knowledge.has_lm and begins_with_space:
        if node.is_open:
            _score_open_word(node, knowledge)
            score += knowledge.lm_weight * node.closed_score
            if not _is_known(node, knowledge):
                score += knowledge.unknown_word_score
    elif knowledge.has_lm and not knowledge.closes_inside:
        lexicon = node.lexicon if node.is_open else 0
        score += max(_best_ending(lexicon, knowledge), _best_ending(-1, knowledge))
    return score
