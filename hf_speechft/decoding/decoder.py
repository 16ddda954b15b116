"""CTCDecoder: logits of any CTC model become text by prefix beam search, with what is known about the language.

    log_probs (batch, steps, vocab) -> search (numba, or torch on a GPU) -> token sequences with scores
        -> text (`units.py`), times by forced alignment (`align.py`), confidences of words (`confidence.py`)

    score = acoustic_score + lm_weight * lm_score + word_bonus * words + unknown_word_score * unknown words
          + weights of the hot words found

All scores are natural logarithms.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np

from .align import viterbi_path, word_spans
from .batched_search import search_batch
from .confidence import number_words, word_confidences
from .decoder_files import load_decoder, save_decoder
from .knowledge import acoustics_only, gather_knowledge, reweigh
from .log_probs import check_batch
from .ngram import NGramLM
from .search import Limits, Paths, search
from .units import read_units

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from .rescoring import CausalWordScorer, Rescoring

__all__ = ["CTCDecoder", "Hypothesis", "Word"]

WIDEST_BEAM = 100_000  # where no phrase survives the beam, it is widened up to here


@dataclass(frozen=True)
class Word:
    """A word of a hypothesis.

    Attributes:
        text: The word.
        start_step: First step of the model's output in which it was heard.
        end_step: The step after its last. Words that one token writes share its steps.
        confidence: Share of the beam's probability that has this word here, 0 to 1.
    """

    text: str
    start_step: int
    end_step: int
    confidence: float


@dataclass(frozen=True)
class Hypothesis:
    """What may have been said.

    Attributes:
        text: The words, joined as the vocabulary joins them.
        token_ids: Tokens without blanks and repeats.
        score: What hypotheses are ranked by.
        acoustic_score: Log-probability that the model gives the tokens, over all their alignments.
        lm_score: Log-probability that the language model gives the sentence; 0 without one. Natural logarithm,
            unweighted.
        words: The words with times and confidences.
        rejection_score: With phrases, by how much the acoustic score of free recognition is better: near 0 for what is
            a phrase, large for anything else. None without phrases.
    """

    text: str
    token_ids: list[int]
    score: float
    acoustic_score: float
    lm_score: float
    words: list[Word]
    rejection_score: float | None = None


class CTCDecoder:
    """Prefix beam search for CTC, with language model, hot words and phrases.

    Args:
        tokens: The vocabulary in the order of the logits. How it marks words (`|`, `▁`, `##`, `Ġ` or nothing) is found
            by itself; special tokens such as `<s>` or `[CLS]` never come out.
        blank_id: Id of the CTC blank.
        lm: A word n-gram model, or a causal language model of the Hub. Where the vocabulary marks no words, as in
            Chinese, each character is a word to it.
        lm_weight: Weight of its natural logarithms.
        word_bonus: Added for each word, which offsets that every word costs language-model score.
        unknown_word_score: Added for each word that the n-gram model does not know, beside the model's own score for
            unknown words, and whatever `lm_weight` is; 0 lets new words be spelled as easily as the model says.
        hotwords: Phrases to listen for, or a mapping of each to its weight in nats; without weights 5.
        phrases: The only sentences that may come out: a list, or the text of a JSGF grammar.
        beam_width: Token sequences that are kept from step to step.
        token_min_logp: A token of lower log-probability extends nothing at a step, unless it is the likeliest.
        beam_prune_logp: Token sequences whose score is lower than the best one's by more than this are dropped; with
            phrases none is, since the best may turn out to be none of them.
        rescoring: A language model of the Hub that puts the best hypotheses of the search in a new order.

    Raises:
        ValueError: A number is out of range, a hot word or phrase cannot be written with the tokens, or no word of the
            language model can.

    >>> decoder = CTCDecoder(["<pad>", "|", "a", "b"], 0)
    >>> log_probs = np.log(np.array([[[0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.1, 0.7]]]))
    >>> [hypothesis.text for hypothesis in decoder.decode(log_probs, nbest=2)[0]]
    ['ab', 'b']
    """

    def __init__(
        self,
        tokens: Sequence[str],
        blank_id: int,
        *,
        lm: "NGramLM | CausalWordScorer | None" = None,
        lm_weight: float = 0.5,
        word_bonus: float = 0.0,
        unknown_word_score: float = -5.0,
        hotwords: Sequence[str] | Mapping[str, float] | None = None,
        phrases: Sequence[str] | str | None = None,
        beam_width: int = 32,
        token_min_logp: float = -5.0,
        beam_prune_logp: float = -10.0,
        rescoring: "Rescoring | None" = None,
    ) -> None:
        self.tokens, self.blank_id = list(tokens), int(blank_id)
        self.lm, self.lm_weight, self.word_bonus = lm, float(lm_weight), float(word_bonus)
        self.unknown_word_score = float(unknown_word_score)
        self.hotwords, self.phrases = hotwords, phrases
        self.beam_width = int(beam_width)
        self.token_min_logp, self.beam_prune_logp = float(token_min_logp), float(beam_prune_logp)
        self.rescoring = rescoring
        self.units = read_units(self.tokens, self.blank_id)
        _check_numbers(self)
        self._knowledge = gather_knowledge(
            self.units,
            lm=self.lm,
            lm_weight=self.lm_weight,
            word_bonus=self.word_bonus,
            unknown_word_score=self.unknown_word_score,
            hotwords=self.hotwords,
            phrases=self.phrases,
        )

    @classmethod
    def from_processor(cls, processor: object, *, blank_id: int | None = None, **options: object) -> "CTCDecoder":
        """Make a decoder for the vocabulary of a CTC model.

        Args:
            processor: A processor or tokenizer of transformers: SpeechBERT, Wav2Vec2, Parakeet, …
            blank_id: Id of the blank; by default the tokenizer's padding token, which it is in all of these.
            **options: Arguments of `CTCDecoder`.

        Returns:
            The decoder.

        Raises:
            ValueError: As the class; also where the tokenizer has no padding token and no `blank_id` is given.
        """
        tokenizer = getattr(processor, "tokenizer", processor)
        blank_id = tokenizer.pad_token_id if blank_id is None else blank_id
        if blank_id is None:
            raise ValueError("the tokenizer has no padding token to be the CTC blank; give blank_id=")
        vocabulary = tokenizer.get_vocab()
        delimiter = getattr(tokenizer, "word_delimiter_token", None)
        tokens = [""] * (1 + max(*vocabulary.values(), blank_id))
        for token, token_id in vocabulary.items():
            tokens[token_id] = "|" if token == delimiter and token != "▁" else token
        for token_id in {*tokenizer.all_special_ids} - {vocabulary.get(delimiter), blank_id}:
            tokens[token_id] = ""
        return cls(tokens, blank_id, **options)

    def decode(
        self,
        log_probs: "np.ndarray | torch.Tensor",
        lengths: "Sequence[int] | np.ndarray | torch.Tensor | None" = None,
        nbest: int = 1,
    ) -> list[list[Hypothesis]]:
        """Find the best hypotheses of each utterance.

        Arrays and CPU tensors are searched by compiled code, utterances in parallel on `numba.get_num_threads()`
        threads; tensors on other devices, and language models of the Hub, by batched torch. Both give the same.

        Args:
            log_probs: `(batch, steps, vocab)` log-probabilities, as `log_softmax` gives them.
            lengths: `(batch,)` steps of each utterance; by default all.
            nbest: Hypotheses of different text for each utterance, at most.

        Returns:
            For each utterance its hypotheses, best first; at least one, whose text may be empty.

        Raises:
            ValueError: The array has another shape or vocabulary, holds NaN, or is not normalised.
        """
        arrays, lengths = check_batch(log_probs, lengths, len(self.tokens))
        if nbest < 1:
            raise ValueError(f"nbest is {nbest}; it needs to be 1 or more")
        count = nbest if self.rescoring is None else max(nbest, self.rescoring.nbest)
        utterances = [array[:length] for array, length in zip(arrays, lengths, strict=True)]
        if self._uses_torch(log_probs):
            scorer = None if isinstance(self.lm, NGramLM) else self.lm
            found = search_batch(log_probs, lengths, self.blank_id, self._limits(), self._knowledge, scorer)
            pairs = list(zip(utterances, found, strict=True))
            hypotheses = _map_in_threads(
                lambda pair: self._hypotheses(pair[0], self._until_a_phrase_ends(*pair), count), pairs
            )
        else:
            hypotheses = _map_in_threads(lambda one: self._hypotheses(one, self._search(one), count), utterances)
        if self.rescoring is not None:
            hypotheses = [best[:nbest] for best in self.rescoring.reorder(hypotheses)]
        return hypotheses

    def with_weights(
        self,
        *,
        lm_weight: float | None = None,
        word_bonus: float | None = None,
        unknown_word_score: float | None = None,
    ) -> "CTCDecoder":
        """The same decoder with other weights, without a second look at the language model.

        Args:
            lm_weight: Weight of the language model; None leaves it as it is.
            word_bonus: Added for each word; likewise.
            unknown_word_score: Added for each word that the n-gram model does not know; likewise.

        Returns:
            A new decoder that shares the arrays of this one.

        Raises:
            ValueError: A weight is out of range.
        """
        given = {"lm_weight": lm_weight, "word_bonus": word_bonus, "unknown_word_score": unknown_word_score}
        weights = {name: float(getattr(self, name) if value is None else value) for name, value in given.items()}
        decoder = copy.copy(self)
        vars(decoder).update(weights)
        _check_numbers(decoder)
        decoder._knowledge = reweigh(self._knowledge, self.units, **weights)
        return decoder

    def with_rescoring(self, rescoring: "Rescoring | None") -> "CTCDecoder":
        """The same decoder with another language model for its n-best lists, or with none."""
        decoder = copy.copy(self)
        decoder.rescoring = rescoring
        return decoder

    def save_pretrained(self, folder: "str | Path") -> None:
        """Write the decoder into a folder: its settings as JSON, and its n-gram model.

        Beside a model the folder is `decoder`, where `hf-speechft transcribe` and the pipeline look for it.

        Args:
            folder: Made if it does not exist.
        """
        save_decoder(self, folder)

    @classmethod
    def from_pretrained(cls, folder: "str | Path", **options: object) -> "CTCDecoder":
        """Read a decoder that `save_pretrained` wrote.

        Args:
            folder: The folder.
            **options: Arguments of `CTCDecoder` that replace what was saved, such as `hotwords`.

        Returns:
            The decoder.

        Raises:
            ValueError: There is no decoder in the folder, or it cannot be read.
        """
        return cls(**load_decoder(folder) | options)

    def _uses_torch(self, log_probs: object) -> bool:
        is_on_device = hasattr(log_probs, "device") and getattr(log_probs.device, "type", "cpu") != "cpu"
        return is_on_device or not (self.lm is None or isinstance(self.lm, NGramLM))

    def _limits(self) -> Limits:
        prune_logp = self.beam_prune_logp if self.phrases is None else -math.inf
        return Limits(self.beam_width, self.token_min_logp, prune_logp)

    def _search(self, log_probs: np.ndarray) -> Paths:
        paths = search(log_probs, self.blank_id, self._limits(), self._knowledge)
        return self._until_a_phrase_ends(log_probs, paths)

    def _until_a_phrase_ends(self, log_probs: np.ndarray, paths: Paths) -> Paths:
        """Where every prefix in the beam stands inside a phrase at the end, search again more widely."""
        limits = self._limits()
        while len(paths.score) == 0 and limits.beam_width < WIDEST_BEAM:
            limits = limits._replace(beam_width=8 * limits.beam_width)
            paths = search(log_probs, self.blank_id, limits, self._knowledge)
        return paths

    def _hypotheses(self, log_probs: np.ndarray, paths: Paths, nbest: int) -> list[Hypothesis]:
        rejected_by = self._free_score(log_probs) if self.phrases is not None else None
        if len(paths.score) == 0:  # too short for any phrase
            return [Hypothesis("", [], -math.inf, -math.inf, 0.0, [], math.inf)]
        word_of_token, fingerprints, first_word = number_words(paths.tokens, paths.start, *self.units.flat)
        hypotheses, texts = [], set()
        for path in range(len(paths.score)):
            span = slice(paths.start[path], paths.start[path + 1])
            tokens = paths.tokens[span]
            words = self.units.words(tokens)
            text = self.units.separator.join(words)
            if text in texts:
                continue
            texts.add(text)
            confidences = word_confidences(path, paths.score, fingerprints, first_word)
            path_states = viterbi_path(log_probs, tokens, self.blank_id)
            times = word_spans(path_states, word_of_token[span], len(confidences)).tolist()
            acoustic = float(paths.acoustic[path])
            hypotheses.append(
                Hypothesis(
                    text,
                    tokens.tolist(),
                    float(paths.score[path]),
                    acoustic,
                    float(paths.lm[path]),
                    [
                        Word(word, *steps, confidence)
                        for word, steps, confidence in zip(words, times, confidences.tolist(), strict=True)
                    ],
                    None if rejected_by is None else max(0.0, rejected_by - acoustic),
                )
            )
            if len(hypotheses) == nbest:
                break
        return hypotheses

    def _free_score(self, log_probs: np.ndarray) -> float:
        """Acoustic score of the best tokens that have to be no phrase."""
        paths = search(log_probs, self.blank_id, self._limits(), acoustics_only(self._knowledge))
        return float(paths.acoustic.max())


def _check_numbers(decoder: CTCDecoder) -> None:
    if decoder.beam_width < 1:
        raise ValueError(f"beam_width is {decoder.beam_width}; it needs to be 1 or more")
    for name in ("lm_weight", "word_bonus"):
        if not math.isfinite(getattr(decoder, name)):
            raise ValueError(f"{name} is {getattr(decoder, name)}; it needs to be a finite number")
    if not decoder.token_min_logp <= 0:
        raise ValueError(f"token_min_logp is {decoder.token_min_logp}; log-probabilities are 0 or less")
    if not decoder.beam_prune_logp <= 0:
        raise ValueError(
            f"beam_prune_logp is {decoder.beam_prune_logp}; it is a distance below the best score, 0 or less"
        )
    if not -math.inf < decoder.unknown_word_score <= 0:
        raise ValueError(
            f"unknown_word_score is {decoder.unknown_word_score}; it is added for each unknown word and needs to be a "
            "finite number, 0 or less"
        )


def _map_in_threads(function: Callable, items: Sequence) -> list:
    """Apply a function that lets go of Python's lock to each item, on as many threads as numba uses."""
    threads = min(numba.get_num_threads(), len(items))
    if threads <= 1:
        return [function(item) for item in items]
    results = [None] * len(items)

    def work(first: int) -> None:  # a share of the items, since handing over one takes as long as decoding it
        for place in range(first, len(items), threads):
            results[place] = function(items[place])

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, range(threads)):
            pass  # raises what a thread raised
    return results
