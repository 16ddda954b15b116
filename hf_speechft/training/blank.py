"""The blank's bias, lowered after training so far as the validation split has fewer errors with it.

A model that hesitates between units shares their probability out among them, and the blank, which has no rivals, wins:
a word is left out. That is so the more, the more units there are. The bias is part of the weights, so that whatever
decodes the logits has it.

Source: Miao, Gowayyed and Metze, "EESEN: End-to-End Speech Recognition using Deep RNN Models and WFST-based Decoding",
2015 (arXiv:1507.08240), divides the outputs by priors, of which the blank's is by far the largest; icefall subtracts a
`blank_penalty`, as is done here.
"""

import logging

from datasets import Dataset

from hf_speechft.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)

BLANK_PENALTIES = (0.0, 0.5, 1.0, 1.5, 2.0)  # natural logarithms


def calibrate_blank(trainer: SpeechTrainer, validation: Dataset) -> float:
    """Lower the bias of the model's blank to where greedy decoding of the validation split errs least.

    Args:
        trainer: After training; the head of its model is changed.
        validation: Split that is evaluated with each of `BLANK_PENALTIES`.

    Returns:
        What was subtracted from the bias; of equally good ones the smallest. Words are what counts, or characters
        where CER chooses checkpoints.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    metric = "cer" if (trainer.args.metric_for_best_model or "").endswith("cer") else "wer"
    blank = model.config.pad_token_id
    learned = model.head.bias[blank].item()
    rates = {}
    for penalty in BLANK_PENALTIES:
        model.head.bias.data[blank] = learned - penalty  # the Trainer may have given the weights another type
        rates[penalty] = trainer.predict(validation, metric_key_prefix="blank").metrics[f"blank_{metric}"]
    best = min(rates, key=lambda penalty: (rates[penalty], penalty))
    model.head.bias.data[blank] = learned - best
    if best:
        without = rates[BLANK_PENALTIES[0]]
        logger.info(
            "blank's bias lowered by %g: validation %s %.4f instead of %.4f", best, metric, rates[best], without
        )
    return best
