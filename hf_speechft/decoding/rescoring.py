"""Language models of the Hub as judges of sentences: n-best lists in a new order, and words for shallow fusion.

    texts -> token ids -> causal: log P(sentence) | masked: pseudo-log-likelihood -> (texts,) natural logarithms

A causal model (GPT-2, Llama, …) reads a sentence from its beginning; a masked one (BERT, RoBERTa, …) is asked for each
token in turn. Scores are cached, since neighbouring utterances and steps of a search ask for the same again.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from .causal_lm import CausalLM, check_lengths
from .language_model import language_model_kind, load_language_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .decoder import Hypothesis

__all__ = ["CausalWordScorer", "Rescoring", "SentenceScorer", "rescore"]

CACHED_SCORES = 100_000
KEPT_BYTES = 2**28  # keys and values of 5,800 tokens of SmolLM2-135M, or 3,600 of GPT-2, in float32


class _Scorer:
    """What both scorers share: loading, and the name of what was loaded."""

    model: "PreTrainedModel"

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        batch_size: int = 64,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> Self:
        """Load a language model; arguments other than `batch_size` are those of `load_language_model`."""
        loaded = load_language_model(name_or_path, device=device, dtype=dtype, revision=revision, token=token)
        return cls(*loaded, batch_size=batch_size)

    @property
    def name_or_path(self) -> str:
        """Hub id or folder that the model was loaded from."""
        return self.model.name_or_path


class SentenceScorer(_Scorer):
    """Log-probabilities of sentences by a causal or masked language model.

    A causal model gives log P(sentence): the sum over its tokens, the sentence begun with BOS (EOS where the tokenizer
    has no BOS) and ended with EOS where there is one. A masked model gives the pseudo-log-likelihood: the sum over its
    tokens, special ones left out, of the log-probability of the token where it alone is masked. The two are not on one
    scale, so a weight tuned for one says nothing about the other.

    Texts are scored as they are given, with their case and punctuation, and scores are cached by text.

    Args:
        model: A model with a language-model head, in evaluation mode.
        tokenizer: Its tokenizer.
        batch_size: Rows that the model reads at once. A text is one row for a causal model, and as many as it has
            tokens for a masked one.

    Raises:
        ValueError: The tokenizer lacks a token that is needed: BOS or EOS of a causal model, the mask of a masked one.

    Source:
        Salazar et al. 2020, "Masked Language Model Scoring", sections 2.2 and 2.3.
    """

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, batch_size: int = 64
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.kind = language_model_kind(model.config)
        if self.kind == "causal":
            self._lm = CausalLM(model, tokenizer, batch_size)
        elif tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer of a masked language model needs a mask token; set mask_token")
        self._cache = _ScoreCache()

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Score texts.

        Args:
            texts: Sentences. An empty one has no tokens: a masked model gives 0.

        Returns:
            `(texts,)` natural log-probabilities, float64.

        Raises:
            ValueError: A text has more tokens than the model has positions.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts is one string {texts!r}; give a list of texts")
        return self._cache.look_up(texts, self._score_causal if self.kind == "causal" else self._score_masked)

    def _score_causal(self, texts: list[str]) -> np.ndarray:
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return self._lm.score([(self._lm.begin, (*row, *self._lm.end)) for row in ids])

    @torch.inference_mode()
    def _score_masked(self, texts: list[str]) -> np.ndarray:
        encoded = self.tokenizer(texts, return_special_tokens_mask=True)
        check_lengths(encoded["input_ids"], self.model, self.tokenizer)
        ids = [torch.tensor(row) for row in encoded["input_ids"]]
        masks = [  # (text, position) of each token to be masked
            (text, position)
            for text, specials in enumerate(encoded["special_tokens_mask"])
            for position, is_special in enumerate(specials)
            if not is_special
        ]
        masks.sort(key=lambda mask: len(ids[mask[0]]))
        totals = np.zeros(len(texts))
        for start in range(0, len(masks), self.batch_size):
            text, position = torch.tensor(masks[start : start + self.batch_size]).T
            scores = self._predict_masked([ids[number] for number in text.tolist()], position)
            np.add.at(totals, text.numpy(), scores.double().cpu().numpy())
        return totals

    def _predict_masked(self, ids: list[torch.Tensor], position: torch.Tensor) -> torch.Tensor:
        """Give the log-probability, `(rows,)`, of the token at `position` of each row when it is masked."""
        rows = torch.arange(len(ids))
        # RoBERTa counts positions by tokens that are not padding, so the padding token itself matters.
        padded = pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id or 0)  # (rows, tokens)
        is_real = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]
        token = padded[rows, position]  # (rows,)
        padded[rows, position] = self.tokenizer.mask_token_id
        device = self.model.device
        logits = self.model(input_ids=padded.to(device), attention_mask=is_real.long().to(device)).logits
        return logits[rows, position].float().log_softmax(dim=-1)[rows, token]


class CausalWordScorer(_Scorer):
    """Log-probabilities of words, given the words before them, by a causal language model.

    The sum over a sentence's words and its end is what `SentenceScorer` gives to the words joined by spaces. For that
    a word is tokenised by itself: with the space before it where the tokenizer makes the space a part of the next
    word (GPT-2, Llama), and without one at the sentence's beginning, where `SentenceScorer` sees none either. The two
    differ only for tokenizers that look at several words at once.

    Args:
        model: A model with a causal language-model head, in evaluation mode.
        tokenizer: Its tokenizer.
        batch_size: Rows that the model reads at once; words after one history mostly share a row.

    Raises:
        ValueError: The model is not causal, or the tokenizer has tokens that span words.
    """

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, batch_size: int = 64
    ) -> None:
        kind = language_model_kind(model.config)
        if kind != "causal":
            raise ValueError(
                f"{model.name_or_path or type(model).__name__} is a {kind} language model, which cannot tell what "
                "comes next; take a causal one such as GPT-2, or rescore n-best lists with this one"
            )
        self.model, self.tokenizer = model, tokenizer
        self._lm = CausalLM(model, tokenizer, batch_size, keep_bytes=KEPT_BYTES)
        self._before_word = _find_word_prefix(tokenizer)
        self._cache = _ScoreCache()

    def score_words(self, pairs: Sequence[tuple[tuple[str, ...], str]]) -> np.ndarray:
        """Score words.

        Args:
            pairs: A history, which is the words of the sentence so far, and the next word.

        Returns:
            `(pairs,)` natural log P(word | history), float64.

        Raises:
            ValueError: A sentence has more tokens than the model has positions.
        """
        return self._cache.look_up([(tuple(history), word) for history, word in pairs], self._score_pairs)

    def score_ends(self, histories: Sequence[tuple[str, ...]]) -> np.ndarray:
        """Score the end of sentences; 0 where the tokenizer has no EOS.

        Args:
            histories: The words of whole sentences.

        Returns:
            `(histories,)` natural log P(EOS | history), float64.

        Raises:
            ValueError: A sentence has more tokens than the model has positions.
        """
        return self._cache.look_up([(tuple(history), None) for history in histories], self._score_pairs)

    def _score_pairs(self, pairs: list[tuple[tuple[str, ...], str | None]]) -> np.ndarray:
        """Score words, or ends where the word is None."""
        sentences = [self._spell(history if word is None else (*history, word)) for history, word in pairs]
        spelled = list(dict.fromkeys(chain.from_iterable(sentences)))
        ids = self.tokenizer(spelled, add_special_tokens=False)["input_ids"] if spelled else []
        ids_of = dict(zip(spelled, map(tuple, ids), strict=True))
        requests = []
        for (_, word), sentence in zip(pairs, sentences, strict=True):
            *history, last = [ids_of[text] for text in sentence] + ([self._lm.end] if word is None else [])
            requests.append((self._lm.begin + tuple(chain.from_iterable(history)), last))
        return self._lm.score(requests)

    def _spell(self, words: Sequence[str]) -> list[str]:
        return [self._before_word + word if place else word for place, word in enumerate(words)]


class _ScoreCache:
    """The scores that were asked for last."""

    def __init__(self) -> None:
        self._scores: OrderedDict[Hashable, float] = OrderedDict()

    def look_up(self, keys: Sequence[Hashable], compute: Callable[[list], np.ndarray]) -> np.ndarray:
        """Give the scores of `keys`, those that are not cached by one call of `compute`."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._scores]
        if missing:
            self._scores.update(zip(missing, compute(missing).tolist(), strict=True))
        for key in keys:
            self._scores.move_to_end(key)
        scores = np.array([self._scores[key] for key in keys], dtype=np.float64)
        while len(self._scores) > CACHED_SCORES:
            self._scores.popitem(last=False)
        return scores


def rescore(
    nbest: "Sequence[Sequence[Hypothesis]]", scorer: SentenceScorer, *, weight: float, word_bonus: float = 0.0
) -> "list[list[Hypothesis]]":
    """Put n-best lists in a new order: score + weight * scorer.score(text) + word_bonus * words.

    Args:
        nbest: Hypotheses of each utterance, as `CTCDecoder.decode` gives them.
        scorer: The language model that judges their texts.
        weight: Weight of its natural logarithms.
        word_bonus: Added for each word, on top of what the decoder added.

    Returns:
        The hypotheses of each utterance, best first. Their `score` includes the rescoring; `lm_score` stays that of
        the language model that the decoder used.
    """
    scores = iter(scorer.score([hypothesis.text for hypotheses in nbest for hypothesis in hypotheses]).tolist())
    rescored = [
        [
            replace(hypothesis, score=hypothesis.score + weight * next(scores) + word_bonus * len(hypothesis.words))
            for hypothesis in hypotheses
        ]
        for hypotheses in nbest
    ]
    return [sorted(hypotheses, key=lambda hypothesis: -hypothesis.score) for hypotheses in rescored]


@dataclass(frozen=True)
class Rescoring:
    """A decoder's last step: n-best lists are put in the order that a language model of the Hub prefers.

    Attributes:
        scorer: The language model.
        weight: Weight of its natural logarithms.
        word_bonus: Added for each word, on top of what the decoder added.
        nbest: Hypotheses of each utterance that it judges.

    Raises:
        ValueError: A number is out of range.
    """

    scorer: SentenceScorer
    weight: float
    word_bonus: float = 0.0
    nbest: int = 10

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.weight < math.inf or not math.isfinite(self.word_bonus):
            raise ValueError(
                f"rescoring has the weight {self.weight} and the word_bonus {self.word_bonus}; they need to be "
                "finite, and the weight 0 or more"
            )
        if self.nbest < 1:
            raise ValueError(f"rescoring has nbest {self.nbest}; it needs to be 1 or more")

    def reorder(self, nbest: "Sequence[Sequence[Hypothesis]]") -> "list[list[Hypothesis]]":
        """Rescore n-best lists with these weights."""
        return rescore(nbest, self.scorer, weight=self.weight, word_bonus=self.word_bonus)


def _find_word_prefix(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Find what a word needs before it to be tokenised as it is behind another word: a space, or nothing."""
    alone, spaced, pair = tokenizer(["a", " a", "a a"], add_special_tokens=False)["input_ids"]
    for prefix, second in (("", alone), (" ", spaced)):
        if alone + second == pair:
            return prefix
    raise ValueError("the tokenizer has tokens that span words, so words have no scores of their own; rescore instead")
