"""Word and character error rates as counts first, and as `evaluate.Metric` subclasses that work offline.

jiwer aligns; everything here is the sum of what it aligned, so the rates equal `jiwer.wer` and `jiwer.cer`.
Rates are micro-averaged: all errors of the corpus over all reference units of the corpus, so that a long
utterance counts for more than a short one (a mean of per-utterance rates is not a word error rate).

Edge cases, which are jiwer's:
    - An empty prediction deletes every unit of its reference.
    - An empty reference contributes its insertions and no length.
    - A corpus whose references are all empty has no length to divide by: its rate is the number of insertions,
      hence 0.0 when the predictions are empty too.
    - The CER counts spaces between words (not at the ends) as characters. In scripts without spaces between
      words (Chinese, Japanese, Thai) an utterance is one word, so read the CER there and not the WER.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import datasets
import evaluate
import jiwer

Unit = Literal["word", "char"]

_PROCESS = {"word": jiwer.process_words, "char": jiwer.process_characters}

_INPUTS_DESCRIPTION = """
Args:
    predictions: recognised sentences, one string per utterance
    references: true sentences, one string per utterance, in the same order
Returns:
    a dictionary with the rate as a fraction (0.1 is 10 %); it exceeds 1 when there are many insertions
"""


@dataclass(frozen=True)
class ErrorCounts:
    """What an alignment counted, for one utterance or summed over many.

    >>> ErrorCounts(hits=7, substitutions=1, deletions=2, insertions=1).rate
    0.4
    """

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        """Number of words or characters in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors over reference length, a fraction; the number of insertions where the reference is empty."""
        return self.errors / self.reference_length if self.reference_length else float(self.insertions)

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        """Return the counts of both."""
        return ErrorCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def count_errors(references: Sequence[str], predictions: Sequence[str], unit: Unit = "word") -> list[ErrorCounts]:
    """Align each prediction with its reference and count the edits.

    >>> count_errors(["turn on the light"], ["turn the lights"])
    [ErrorCounts(hits=2, substitutions=1, deletions=1, insertions=0)]

    Args:
        references: true sentences, one per utterance.
        predictions: recognised sentences in the same order.
        unit: "word" (split at spaces) or "char" (spaces between words included).

    Returns:
        One `ErrorCounts` per utterance, in the order given.

    Raises:
        ValueError: if the two differ in number, hold something that is not a string, or the unit is unknown.

    Source: jiwer.process_words, jiwer.process_characters.
    """
    if unit not in _PROCESS:
        raise ValueError(f"unit {unit!r} is unknown; choose one of {sorted(_PROCESS)}")
    references = _sentences(references, "references")
    predictions = _sentences(predictions, "predictions")
    if len(references) != len(predictions):
        raise ValueError(
            f"{len(references)} references but {len(predictions)} predictions; give one prediction per reference"
        )
    if not references:
        return []
    alignments = _PROCESS[unit](references, predictions).alignments
    return [_count(alignment) for alignment in alignments]


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Sum counts over utterances; the sum's `rate` is the corpus's error rate.

    >>> total([ErrorCounts(hits=1), ErrorCounts(substitutions=1)]).rate
    0.5
    """
    return sum(counts, ErrorCounts())


def _sentences(sentences: Sequence[str], name: str) -> list[str]:
    """Return the sentences as a list after checking that they are strings."""
    if isinstance(sentences, str):
        raise ValueError(f"{name} is one string {sentences!r}; give a list with one string per utterance")
    sentences = list(sentences)
    for index, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise ValueError(f"{name}[{index}] is {sentence!r}; a string is needed, '' if nothing was said")
    return sentences


def _count(alignment: Iterable[jiwer.AlignmentChunk]) -> ErrorCounts:
    """Add up the lengths of an utterance's alignment chunks by their type."""
    lengths: Counter[str] = Counter()
    for chunk in alignment:
        # An insertion has no length in the reference; every other type has its length there.
        is_insertion = chunk.type == "insert"
        start, end = (
            (chunk.hyp_start_idx, chunk.hyp_end_idx) if is_insertion else (chunk.ref_start_idx, chunk.ref_end_idx)
        )
        lengths[chunk.type] += end - start
    return ErrorCounts(lengths["equal"], lengths["substitute"], lengths["delete"], lengths["insert"])


def _metric_info(description: str) -> evaluate.MetricInfo:
    """Describe a metric over pairs of sentences; both metrics read the same columns."""
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=_INPUTS_DESCRIPTION,
        features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        codebase_urls=["https://github.com/jitsi/jiwer"],
        reference_urls=["https://en.wikipedia.org/wiki/Word_error_rate"],
    )


class WER(evaluate.Metric):
    """Corpus word error rate for `evaluate`: `WER().compute(predictions=…, references=…)["wer"]`.

    >>> WER().compute(predictions=["turn the lights"], references=["turn on the light"])
    {'wer': 0.5}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info("Word error rate: (substitutions + deletions + insertions) / words in the references.")

    def _compute(self, predictions: list[str], references: list[str], **_: Any) -> dict[str, float]:
        return {"wer": total(count_errors(references, predictions, "word")).rate}


class CER(evaluate.Metric):
    """Corpus character error rate for `evaluate`: `CER().compute(predictions=…, references=…)["cer"]`.

    >>> CER().compute(predictions=["lihgt"], references=["light"])
    {'cer': 0.4}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(
            "Character error rate: (substitutions + deletions + insertions) / characters in the references."
        )

    def _compute(self, predictions: list[str], references: list[str], **_: Any) -> dict[str, float]:
        return {"cer": total(count_errors(references, predictions, "char")).rate}
