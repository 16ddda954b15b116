"""Weights of language models, found on the validation split: those with the fewest errors.

log-probabilities of the split -> beam search with each pair of weights -> errors -> the best pair
n-best lists and their scores by another model -> each pair of weights -> errors -> the best pair

Errors are those of words; where the vocabulary marks none, as in Chinese, those of characters.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm

from hf_speechft.data.collate import SpeechCollator
from hf_speechft.data.unreadable import UnreadableClips
from hf_speechft.decoding.decoder import CTCDecoder, Hypothesis
from hf_speechft.decoding.ngram import NGramLM
from hf_speechft.decoding.rescoring import Rescoring, SentenceScorer
from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
from hf_speechft.model.processing_speechbert import SpeechBertProcessor
from hf_speechft.scoring.metrics import Unit, count_errors, total

LM_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
WORD_BONUSES = (0.0, 0.5, 1.0, 2.0, 3.0)
UNKNOWN_WORD_SCORES = (-5.0, -10.0, -2.0, 0.0)  # the decoder's default first: it is kept unless another is better
RESCORING_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
NBEST = 10  # hypotheses of an utterance that are rescored
TUNING_UTTERANCES = 500  # of the validation split; more would change the weights little


@torch.inference_mode()
def emissions(
    model: SpeechBertForCTC,
    processor: SpeechBertProcessor,
    utterances: Dataset,
    *,
    batch_size: int,
    show_progress: bool,
    description: str,
    unreadable: UnreadableClips | None = None,
) -> Iterator[list[np.ndarray]]:
    """Run the model over utterances.

    Args:
        model: It is put into evaluation mode, and computes where it is.
        processor: Its processor.
        utterances: Rows with `audio`.
        batch_size: Utterances that go through the model at once.
        show_progress: Whether to show a bar.
        description: What the bar says.
        unreadable: Notes clips that cannot be decoded; None where that is an error.

    Yields:
        For each batch the log-probabilities of its utterances, `(steps, vocab)` float32; no steps of a clip that
        cannot be decoded.
    """
    model.eval()
    collate = SpeechCollator(processor, unreadable=unreadable)
    for start in tqdm(range(0, len(utterances), batch_size), desc=description, disable=not show_progress):
        rows = [utterances[index] for index in range(start, min(start + batch_size, len(utterances)))]
        batch = collate([{name: row[name] for name in row if name != "text"} for row in rows])
        features, mask = (batch[name].to(model.device) for name in ("input_features", "attention_mask"))
        log_probs = model(features, mask).logits.float().log_softmax(dim=-1).cpu().numpy()
        lengths = model.step_lengths(features, mask).cpu()
        if "unreadable" in batch:
            lengths[batch["unreadable"]] = 0
        yield [log_probs[place, :steps] for place, steps in enumerate(lengths.tolist())]


def decode_batch(decoder: CTCDecoder, batch: Sequence[np.ndarray], nbest: int = 1) -> list[list[Hypothesis]]:
    """Decode utterances of different lengths, `(steps, vocab)` each."""
    lengths = [len(log_probs) for log_probs in batch]
    padded = np.zeros((len(batch), max(lengths, default=0), len(decoder.tokens)), np.float32)
    for place, log_probs in enumerate(batch):
        padded[place, : len(log_probs)] = log_probs
    return decoder.decode(padded, lengths, nbest)


def transcripts_lm(processor: SpeechBertProcessor, lines: Iterable[str], order: int) -> NGramLM:
    """N-gram model of normalised lines, whose words are those that the processor's units write."""
    units = CTCDecoder.from_processor(processor).units
    return NGramLM.from_text(map(units.spaced, lines), order)


def tuning_sample(utterances: Dataset, seed: int = 0) -> Dataset:
    """The utterances that weights are found on: all, or of a large split a random part in the split's order."""
    if len(utterances) <= TUNING_UTTERANCES:
        return utterances
    chosen = np.random.default_rng(seed).choice(len(utterances), TUNING_UTTERANCES, replace=False)
    return utterances.select(sorted(chosen.tolist()))


def tune_decoder(
    decoder: CTCDecoder, batches: Sequence[Sequence[np.ndarray]], references: Sequence[str]
) -> tuple[CTCDecoder, float]:
    """Find the weights of the decoder's language model.

    First its weight and the bonus for words are found together, then the score of unknown words. A weight of 0 turns
    the language model off, so unknown words cost nothing there.

    Args:
        decoder: Its own weights do not matter.
        batches: Log-probabilities of the validation split, as `emissions` yields them.
        references: Transcripts in the same order.

    Returns:
        The decoder with the weights that have the fewest errors, of equal ones the smallest, and their error rate.
    """
    unit = error_unit(decoder)

    def rate_of(candidate: CTCDecoder) -> float:
        return _rate(references, [nbest for batch in batches for nbest in decode_batch(candidate, batch)], unit)

    def with_pair(lm_weight: float, word_bonus: float) -> CTCDecoder:
        unknown_word_score = UNKNOWN_WORD_SCORES[0] if lm_weight > 0 else 0.0
        return decoder.with_weights(lm_weight=lm_weight, word_bonus=word_bonus, unknown_word_score=unknown_word_score)

    lm_weight, word_bonus, rate = _best(LM_WEIGHTS, lambda *pair: rate_of(with_pair(*pair)))
    found = with_pair(lm_weight, word_bonus)
    if lm_weight == 0:
        return found, rate
    candidates = [found.with_weights(unknown_word_score=score) for score in UNKNOWN_WORD_SCORES]
    rates = [rate_of(candidate) for candidate in candidates]
    return candidates[int(np.argmin(rates))], min(rates)


def tune_rescoring(
    nbest: Sequence[Sequence[Hypothesis]], scorer: SentenceScorer, references: Sequence[str], unit: Unit = "word"
) -> tuple[Rescoring, float]:
    """Find the weights of a language model that rescores n-best lists.

    Args:
        nbest: Hypotheses of the validation split, `NBEST` of each utterance.
        scorer: The language model.
        references: Transcripts in the same order.
        unit: Whose errors are counted, `word` or `char`; see `error_unit`.

    Returns:
        The weights with the fewest errors, of equal ones the smallest, and their error rate.
    """

    def rate_of(weight: float, word_bonus: float) -> float:
        return _rate(references, Rescoring(scorer, weight, word_bonus).reorder(nbest), unit)

    weight, word_bonus, rate = _best(RESCORING_WEIGHTS, rate_of)
    return Rescoring(scorer, weight, word_bonus, NBEST), rate


def error_unit(decoder: CTCDecoder) -> Unit:
    """Whose errors tell hypotheses apart: `word`, or `char` where a sentence would be one word."""
    return "word" if decoder.units.separator else "char"


def _best(lm_weights: Sequence[float], rate_of: Callable[[float, float], float]) -> tuple[float, float, float]:
    """Weight and bonus with the fewest errors, and their rate."""
    # A bonus pays back what the language model takes for each word, so it grows with the weight.
    pairs = [(weight, bonus) for weight in lm_weights for bonus in WORD_BONUSES if bonus <= 4 * weight]
    rates = [(rate_of(*pair), pair) for pair in pairs]
    rate, pair = min(rates)
    return *pair, rate


def _rate(references: Sequence[str], nbest: Sequence[Sequence[Hypothesis]], unit: Unit) -> float:
    return total(count_errors(references, [hypotheses[0].text for hypotheses in nbest], unit)).rate
