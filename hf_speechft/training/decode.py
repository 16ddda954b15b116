"""The final decoding of a run: by beam search, with an n-gram model of the transcripts, and rescored.

validation split -> weights (`tuning.py`) -> test split -> hypotheses of each way of decoding; a decoder to be saved
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_speechft.data.unreadable import UnreadableClips
from hf_speechft.decoding.decoder import CTCDecoder, Hypothesis
from hf_speechft.decoding.rescoring import SentenceScorer
from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
from hf_speechft.model.processing_speechbert import SpeechBertProcessor
from hf_speechft.training.memory import is_out_of_memory
from hf_speechft.training.tuning import (
    NBEST,
    decode_batch,
    emissions,
    error_unit,
    transcripts_lm,
    tune_decoder,
    tune_rescoring,
    tuning_sample,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoding:
    """The test split, decoded in one way.

    Attributes:
        name: What was done, such as `beam search`.
        hypotheses: Text of each utterance.
        settings: What it was done with; weights are those found on the validation split.
    """

    name: str
    hypotheses: Sequence[str]
    settings: Mapping[str, float | int | str]


@dataclass(frozen=True)
class DecodingPlan:
    """What the final decoding is asked for.

    Attributes:
        beam_width: Token sequences that the search keeps.
        lm_order: Words in the longest n-grams of the language model.
        lm_lines: The text that it is estimated from.
        rescoring_model: Hub id or folder of a language model that rescores; None for none.
        rescoring_revision: Its branch, tag or commit on the Hub.
        batch_size: Utterances that go through the model at once.
        show_progress: Whether to show bars.
        unreadable: Notes clips that cannot be decoded, in which nothing is recognised; None where that is an error.
    """

    beam_width: int
    lm_order: int
    lm_lines: Iterable[str]
    rescoring_model: str | None
    batch_size: int
    show_progress: bool
    rescoring_revision: str | None = None
    unreadable: UnreadableClips | None = None


def decode_finally(
    model: SpeechBertForCTC,
    processor: SpeechBertProcessor,
    validation: Dataset,
    test: Dataset,
    plan: DecodingPlan,
) -> tuple[list[Decoding], CTCDecoder]:
    """Decode the test split by beam search, with an n-gram model, and rescored.

    Args:
        model: The trained model.
        processor: Its processor.
        validation: The split that weights are found on.
        test: The split that is reported.
        plan: What to decode with.

    Returns:
        The decodings, rescoring only where its model can score text; and the decoder with the n-gram model and the
        weights that were found.
    """
    plain = CTCDecoder.from_processor(processor, beam_width=plan.beam_width)
    lm = transcripts_lm(processor, plan.lm_lines, plan.lm_order)
    decoder = CTCDecoder.from_processor(processor, lm=lm, beam_width=plan.beam_width)
    validation = tuning_sample(validation)
    references = list(map(processor.tokenizer.written, validation["text"]))
    options = {"batch_size": plan.batch_size, "show_progress": plan.show_progress, "unreadable": plan.unreadable}
    batches = list(emissions(model, processor, validation, description="validation", **options))
    decoder, _ = tune_decoder(decoder, batches, references)
    beam, with_lm = [], []
    for batch in emissions(model, processor, test, description="test", **options):
        beam += decode_batch(plain, batch)
        with_lm += decode_batch(decoder, batch, NBEST)
    settings = {"beam_width": plan.beam_width}
    weights = {name: getattr(decoder, name) for name in ("lm_weight", "word_bonus", "unknown_word_score")}
    settings_lm = settings | {"lm_order": plan.lm_order} | weights
    decodings = [
        Decoding("beam search", _best_texts(beam), settings),
        Decoding(f"beam search, {plan.lm_order}-gram", _best_texts(with_lm), settings_lm),
    ]
    if plan.rescoring_model is not None:
        try:
            scorer = SentenceScorer.from_pretrained(plan.rescoring_model, revision=plan.rescoring_revision)
            decodings.append(_rescore(decoder, batches, references, with_lm, scorer, settings_lm))
        except ValueError as error:  # no language-model head, a tokenizer that begins no sentence, too few positions
            logger.info("no rescoring: %s", error)
        except (OSError, RuntimeError) as error:  # the other results are not to be lost
            if not isinstance(error, OSError) and not is_out_of_memory(error):
                raise
            remedy = "`hf-speechft tune --rescoring-model` does it later"
            logger.warning("no rescoring by %s (%s); %s", plan.rescoring_model, error, remedy)
    return decodings, decoder


def _rescore(
    decoder: CTCDecoder,
    batches: Sequence[Sequence[np.ndarray]],
    references: Sequence[str],
    nbest: Sequence[Sequence[Hypothesis]],
    scorer: SentenceScorer,
    settings: Mapping[str, float | int | str],
) -> Decoding:
    """Find the rescoring weights on the validation split, and rescore the test split's n-best lists."""
    lists = [hypotheses for batch in batches for hypotheses in decode_batch(decoder, batch, NBEST)]
    rescoring, _ = tune_rescoring(lists, scorer, references, error_unit(decoder))
    name = scorer.name_or_path
    added = {
        "rescoring_model": Path(name).name if Path(name).is_dir() else name,
        "rescoring_weight": rescoring.weight,
        "rescoring_word_bonus": rescoring.word_bonus,
    }
    return Decoding(f"{NBEST} best rescored", _best_texts(rescoring.reorder(nbest)), {**settings, **added})


def _best_texts(nbest: Sequence[Sequence[Hypothesis]]) -> list[str]:
    return [hypotheses[0].text for hypotheses in nbest]
