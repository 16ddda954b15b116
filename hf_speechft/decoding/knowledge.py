"""What a search knows besides the logits, gathered into the arrays that compiled code reads."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .automaton import Automaton, build_trie
from .grammar import grammar_automaton, phrases_automaton
from .hotwords import HotWords, build_hot_words
from .ngram import SPECIAL_WORDS, NGramLM, NodeRows, join_orders
from .prefix import LN_10, Knowledge, open_word_scores
from .units import Units

if TYPE_CHECKING:
    from .rescoring import CausalWordScorer

__all__ = ["HOTWORD_WEIGHT", "acoustics_only", "gather_knowledge", "reweigh"]

HOTWORD_WEIGHT = 5.0  # nats for a hot word that is given without a weight


def gather_knowledge(
    units: Units,
    *,
    lm: "NGramLM | CausalWordScorer | None",
    lm_weight: float,
    word_bonus: float,
    unknown_word_score: float,
    hotwords: Sequence[str] | Mapping[str, float] | None,
    phrases: Sequence[str] | str | None,
) -> Knowledge:
    """Bring everything that the search reads into arrays.

    Args:
        units: What the tokens write.
        lm: Language model; one of the Hub is asked by `batched_search.py` and leaves no array here.
        lm_weight: Weight of its natural logarithms.
        word_bonus: Added for each word.
        unknown_word_score: Added for each word that an n-gram model does not know.
        hotwords: Phrases to listen for, with weights in nats or without.
        phrases: The only sentences that may come out: a list, or the text of a JSGF grammar.

    Returns:
        The arrays.

    Raises:
        ValueError: A hot word or phrase cannot be written with the tokens, or the language model does not fit them.
    """
    has_ngrams = isinstance(lm, NGramLM)
    if has_ngrams:
        _check_language_model(lm, units)
    elif lm is not None:
        _check_word_marks(units)
    ngrams = lm if has_ngrams else _no_ngrams()
    lexicon = _lexicon(ngrams, units)
    unigram_scores = ngrams.arrays.log10_prob[1 : len(ngrams.words) + 1].astype(np.float64) * LN_10
    pieces, piece_start = units.flat
    hot_words = _hot_words(hotwords, units)
    return Knowledge(
        pieces=pieces,
        piece_start=piece_start,
        is_searched=units.is_searched,
        has_lm=has_ngrams,
        ngrams=ngrams.arrays,
        begin_state=ngrams.begin_state,
        lexicon=lexicon,
        best_word=open_word_scores(lexicon, unigram_scores),
        unknown_score=float(unigram_scores[0]),
        lm_weight=lm_weight,
        word_bonus=word_bonus,
        unknown_word_score=unknown_word_score,
        hot_words=hot_words,
        has_phrases=phrases is not None,
        phrases=_phrases(phrases, units),
        closes_inside=any(b" " in piece[1:] for piece in units.pieces),
        most_gain=_most_gain(units, lm_weight, word_bonus, hot_words),
    )


def acoustics_only(knowledge: Knowledge) -> Knowledge:
    """The same tokens, and nothing that prefers one text to another."""
    return knowledge._replace(
        has_lm=False,
        lm_weight=0.0,
        word_bonus=0.0,
        hot_words=build_hot_words([], []),
        has_phrases=False,
        most_gain=0.0,
    )


def reweigh(
    knowledge: Knowledge, units: Units, *, lm_weight: float, word_bonus: float, unknown_word_score: float
) -> Knowledge:
    """The same knowledge with other weights."""
    most_gain = _most_gain(units, lm_weight, word_bonus, knowledge.hot_words)
    return knowledge._replace(
        lm_weight=lm_weight, word_bonus=word_bonus, unknown_word_score=unknown_word_score, most_gain=most_gain
    )


def _most_gain(units: Units, lm_weight: float, word_bonus: float, hot_words: HotWords) -> float:
    """Bound of what one token adds to a score: the search leaves alone what cannot reach the beam even so."""
    if lm_weight < 0:
        return math.inf
    longest = max(map(len, units.pieces))
    return (
        max(0.0, word_bonus) * (1 + max(piece.count(b" ") for piece in units.pieces))
        + max(0.0, hot_words.bonus.max()) * (1 + longest)
        + hot_words.potential.max()
    )


def _no_ngrams() -> NGramLM:
    """A model that is never asked: the special words alone."""
    ids = np.arange(len(SPECIAL_WORDS))
    unigrams = NodeRows(parent=0 * ids, word=ids, suffix=0 * ids, log10_prob=0.0 * ids, log10_backoff=0.0 * ids)
    return NGramLM(1, list(SPECIAL_WORDS), join_orders([unigrams]))


def _lexicon(lm: NGramLM, units: Units) -> Automaton:
    """The words of a language model that may be spoken; `value` is a word's id."""
    special = len(SPECIAL_WORDS)
    trie = build_trie([units.stream(word).removesuffix(b" ") for word in lm.words[special:]])
    return trie._replace(value=np.where(trie.value < 0, -1, trie.value + special).astype(np.int32))


def _check_language_model(lm: NGramLM, units: Units) -> None:
    """Refuse a language model none of whose words can come out."""
    words = lm.words[len(SPECIAL_WORDS) :]
    longer = [] if units.separator else [word for word in words if " " in units.spaced(word)]
    if 2 * len(longer) > len(words):
        raise ValueError(
            f"to this vocabulary each character is a word, and {len(longer)} of the language model's {len(words)} "
            f"words, such as {longer[0]!r}, are longer; build it from text with a space between two characters "
            "(hf-speechft lm build --characters)"
        )
    if not words or any(not units.unknown_characters(word) for word in words):
        return
    known = "".join(sorted({piece.decode("utf-8", "ignore").strip() for piece in units.pieces}))[:40]
    raise ValueError(
        f"none of the language model's {len(words)} words, such as {words[0]!r}, can be written with the tokens, "
        f"which have the characters {known!r}; build it from text with the case and the normaliser of the transcripts"
    )


def _check_word_marks(units: Units) -> None:
    """Refuse a causal language model where the search cannot tell at a word's last step that it is complete."""
    if not units.separator or any(b" " in piece[1:-1] for piece in units.pieces):
        raise ValueError(
            "a language model of the Hub can be fused only with a vocabulary that marks words, at the start of tokens "
            "or by a delimiter; decode with nbest= and rescore the hypotheses instead"
        )


def _hot_words(hotwords: Sequence[str] | Mapping[str, float] | None, units: Units) -> HotWords:
    if isinstance(hotwords, str):
        raise ValueError(f"hotwords is one string {hotwords!r}; give a list of phrases, or a mapping to weights")
    if not isinstance(hotwords, Mapping):
        hotwords = dict.fromkeys(hotwords or [], HOTWORD_WEIGHT)
    stream = _checked_stream(units, "hot word")
    return build_hot_words([stream(phrase) for phrase in hotwords], [float(weight) for weight in hotwords.values()])


def _phrases(phrases: Sequence[str] | str | None, units: Units) -> Automaton:
    stream = _checked_stream(units, "phrase")
    if phrases is None:
        return build_trie([b""])
    if isinstance(phrases, str):
        return grammar_automaton(phrases, stream)
    if not phrases:
        raise ValueError("phrases is an empty list, so nothing could come out; give sentences, or None for free text")
    return phrases_automaton([stream(phrase) for phrase in phrases])


def _checked_stream(units: Units, kind: str) -> Callable[[str], bytes]:
    def stream(text: str) -> bytes:
        if not units.can_write(text):
            unknown = units.unknown_characters(text)
            lacks = f"the vocabulary lacks {', '.join(map(repr, unknown))}"
            problem = lacks if unknown else "they do not spell it"
            raise ValueError(
                f"{kind} {text!r} cannot be written with this model's tokens: {problem}; spell it as the training "
                "transcripts would (case, numbers, punctuation)"
            )
        return units.stream(text)

    return stream
