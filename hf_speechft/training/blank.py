"""The blank's bias, lowered after training so far as the validation split has fewer errors with it.

A model that hesitates between units shares their probability out among them, and the blank, which has no rivals, wins:
a word is left out. That is so the more, the more units there are. The bias is part of the weights, so that whatever
decodes the logits has it.

Source: Miao, Gowayyed and Metze, "EESEN: End-to-End Speech Recognition using Deep RNN Models and WFST-based Decoding",
2015 (arXiv:1507.08240), divides the outputs by priors, of which the blank's is by far the largest; icefall subtracts a
`blank_penalty`, as is done here.
"""

import logging

import torch
from datasets import Dataset

from hf_speechft.data.unreadable import UnreadableClips
from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
from hf_speechft.model.processing_speechbert import SpeechBertProcessor
from hf_speechft.scoring.metrics import Unit, count_errors, total
from hf_speechft.training.tuning import emissions, tuning_sample

logger = logging.getLogger(__name__)

BLANK_PENALTIES = (0.0, 0.5, 1.0, 1.5, 2.0)  # natural logarithms


def calibrate_blank(
    model: SpeechBertForCTC,
    processor: SpeechBertProcessor,
    validation: Dataset,
    *,
    unit: Unit,
    batch_size: int,
    show_progress: bool,
    unreadable: UnreadableClips | None = None,
) -> float:
    """Lower the bias of the model's blank to where greedy decoding of the validation split errs least.

    Args:
        model: The trained model; its head is changed.
        processor: Its processor.
        validation: Utterances with `audio` and `text`; of a large split a random part is used.
        unit: Whether errors of words or of characters are counted.
        batch_size: Utterances that go through the model at once.
        show_progress: Whether to show a bar.
        unreadable: Notes clips that cannot be decoded; None where that is an error.

    Returns:
        What was subtracted from the bias, one of `BLANK_PENALTIES`; of equally good ones the smallest.
    """
    sample = tuning_sample(validation)
    blank = processor.tokenizer.pad_token_id
    hypotheses: dict[float, list[str]] = {penalty: [] for penalty in BLANK_PENALTIES}
    options = {"batch_size": batch_size, "show_progress": show_progress, "unreadable": unreadable}
    for batch in emissions(model, processor, sample, description="blank", **options):
        for log_probs in batch:
            for penalty, texts in hypotheses.items():
                lowered = log_probs.copy()
                lowered[:, blank] -= penalty
                texts.append(processor.decode(lowered.argmax(axis=-1), skip_special_tokens=True))
    rates = {penalty: total(count_errors(sample["text"], texts, unit)).rate for penalty, texts in hypotheses.items()}
    best = min(rates, key=lambda penalty: (rates[penalty], penalty))
    if best:
        logger.info(
            "blank's bias lowered by %g: %s on validation %.4f instead of %.4f",
            *(best, "WER" if unit == "word" else "CER", rates[best], rates[BLANK_PENALTIES[0]]),
        )
    with torch.no_grad():
        model.head.bias[blank] -= best
    return best
