import logging
from types import SimpleNamespace

import jiwer
import numpy as np
import pytest
import torch

from hf_speechft.training.blank import BLANK_PENALTIES, calibrate_blank

SOUNDS = [np.random.default_rng(seed).standard_normal(8_000 + 1_000 * seed) * 0.1 for seed in range(6)]


@pytest.fixture
def hesitant(recogniser):
    """A model whose steps are blank or units by turns, and its processor."""
    model, processor = recogniser
    with torch.no_grad():
        model.head.bias[model.config.pad_token_id] += 3
    return model, processor


def listen(model, processor, penalty=0.0):
    """Texts that stock `generate` gives with the blank's bias lowered."""
    with torch.no_grad():
        model.head.bias[model.config.pad_token_id] -= penalty
        inputs = processor(audio=[sound.tolist() for sound in SOUNDS], sampling_rate=16_000, return_tensors="pt")
        texts = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
        model.head.bias[model.config.pad_token_id] += penalty
    return texts


class Evaluating:
    """What `calibrate_blank` needs of a trainer: its error rates are jiwer's, of what stock `generate` writes."""

    def __init__(self, model, processor, references, metric="wer"):
        self.args = SimpleNamespace(metric_for_best_model=metric)
        self.accelerator = SimpleNamespace(unwrap_model=lambda model: model)
        self.model, self.processor, self.references = model, processor, references

    def predict(self, dataset, metric_key_prefix):
        texts = listen(self.model, self.processor)
        rates = {"wer": jiwer.wer(self.references, texts), "cer": jiwer.cer(self.references, texts)}
        return SimpleNamespace(metrics={f"{metric_key_prefix}_{name}": rate for name, rate in rates.items()})


def calibrate(model, processor, references, metric="wer"):
    return calibrate_blank(Evaluating(model, processor, references, metric), None)


@pytest.mark.parametrize("wanted", [0.5, 1.0, 2.0])
def test_calibrate_blank_finds_the_bias_that_the_references_were_made_with(hesitant, caplog, wanted):
    references = listen(*hesitant, wanted)
    assert listen(*hesitant) != references
    before = {name: weight.clone() for name, weight in hesitant[0].state_dict().items()}
    with caplog.at_level(logging.INFO):
        penalty = calibrate(*hesitant, references)
    assert penalty == wanted
    assert listen(*hesitant) == references
    assert f"lowered by {wanted:g}: validation wer 0.0000 instead of" in caplog.text
    changed = {name for name, weight in hesitant[0].state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {"head.bias"}
    rest = slice(hesitant[0].config.pad_token_id + 1, None)
    assert torch.equal(hesitant[0].head.bias[rest], before["head.bias"][rest])


def test_calibrate_blank_of_weights_that_get_another_type_at_the_first_evaluation(hesitant):
    references = listen(*hesitant, 2.0)
    trainer = Evaluating(*hesitant, references)
    predict = trainer.predict

    def in_float64(dataset, metric_key_prefix):
        trainer.model.to(torch.float64).to(torch.float32)  # as `--bf16_full_eval` gives the weights other storage
        return predict(dataset, metric_key_prefix)

    trainer.predict = in_float64
    assert calibrate_blank(trainer, None) == 2.0
    assert listen(*hesitant) == references


def test_calibrate_blank_leaves_a_bias_that_is_best(hesitant, caplog):
    before = hesitant[0].head.bias.clone()
    with caplog.at_level(logging.INFO):
        assert calibrate(*hesitant, listen(*hesitant)) == 0.0
    assert torch.equal(hesitant[0].head.bias, before)
    assert not caplog.text


def test_calibrate_blank_takes_the_smallest_of_equally_good_ones(hesitant):
    model, processor = hesitant
    with torch.no_grad():
        model.head.bias[model.config.pad_token_id] += 100  # nothing is heard, whatever is subtracted
    assert calibrate(model, processor, ["a b"] * len(SOUNDS)) == 0.0


@pytest.mark.parametrize(
    ("metric", "measure"),
    [
        (None, jiwer.wer),
        ("wer", jiwer.wer),
        ("eval_wer", jiwer.wer),
        ("loss", jiwer.wer),
        ("cer", jiwer.cer),
        ("eval_cer", jiwer.cer),
    ],
)
def test_calibrate_blank_counts_what_chooses_checkpoints(hesitant, metric, measure):
    references = ["a", "b a", "ab", "ba ba", "a b a", "bb"]
    rates = [measure(references, listen(*hesitant, penalty)) for penalty in BLANK_PENALTIES]
    assert calibrate(*hesitant, references, metric) == BLANK_PENALTIES[int(np.argmin(rates))]
