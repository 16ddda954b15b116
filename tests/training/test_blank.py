import json
import logging

import jiwer
import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig

from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)
from hf_speechft.training.blank import BLANK_PENALTIES, calibrate_blank

UNITS = ["<pad>", "<unk>", "▁", "a", "b"]
BLANK = 0
SOUNDS = [np.random.default_rng(seed).standard_normal(8_000 + 1_000 * seed) * 0.1 for seed in range(6)]


@pytest.fixture
def recogniser(tmp_path):
    """A model whose steps are blank or units by turns, and its processor."""
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}))
    processor = SpeechBertProcessor(SpeechBertFeatureExtractor(), SpeechBertTokenizer(str(path)))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = SpeechBertConfig(backbone_config=BertConfig(**sizes), vocab_size=len(UNITS), initializer_range=0.5)
    model = SpeechBertForCTC(config).eval()
    with torch.no_grad():
        model.head.bias[BLANK] += 3
    return model, processor


def listen(model, processor, penalty=0.0):
    """Texts that stock `generate` gives with the blank's bias lowered."""
    with torch.no_grad():
        model.head.bias[BLANK] -= penalty
        inputs = processor(audio=[sound.tolist() for sound in SOUNDS], sampling_rate=16_000, return_tensors="pt")
        texts = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
        model.head.bias[BLANK] += penalty
    return texts


def calibrate(model, processor, references, unit="word"):
    audio = [{"array": sound.tolist(), "sampling_rate": 16_000} for sound in SOUNDS]
    split = Dataset.from_dict({"audio": audio, "text": references})
    return calibrate_blank(model, processor, split, unit=unit, batch_size=4, show_progress=False)


@pytest.mark.parametrize("wanted", [0.5, 1.0, 2.0])
def test_calibrate_blank_finds_the_bias_that_the_references_were_made_with(recogniser, caplog, wanted):
    references = listen(*recogniser, wanted)
    assert listen(*recogniser) != references
    before = {name: weight.clone() for name, weight in recogniser[0].state_dict().items()}
    with caplog.at_level(logging.INFO):
        penalty = calibrate(*recogniser, references)
    assert penalty == wanted
    assert listen(*recogniser) == references
    assert f"lowered by {wanted:g}: word error rate on validation 0.0000 instead of" in caplog.text
    changed = {name for name, weight in recogniser[0].state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {"head.bias"}
    rest = slice(BLANK + 1, None)
    assert torch.equal(recogniser[0].head.bias[rest], before["head.bias"][rest])


def test_calibrate_blank_leaves_a_bias_that_is_best(recogniser, caplog):
    before = recogniser[0].head.bias.clone()
    with caplog.at_level(logging.INFO):
        assert calibrate(*recogniser, listen(*recogniser)) == 0.0
    assert torch.equal(recogniser[0].head.bias, before)
    assert not caplog.text


def test_calibrate_blank_takes_the_smallest_of_equally_good_ones(recogniser):
    model, processor = recogniser
    with torch.no_grad():
        model.head.bias[BLANK] += 100  # nothing is heard, whatever is subtracted
    assert calibrate(model, processor, ["a b"] * len(SOUNDS)) == 0.0


@pytest.mark.parametrize(("unit", "measure"), [("word", jiwer.wer), ("char", jiwer.cer)])
def test_calibrate_blank_counts_what_it_is_asked_to(recogniser, unit, measure):
    references = ["a", "b a", "ab", "ba ba", "a b a", "bb"]
    rates = [measure(references, listen(*recogniser, penalty)) for penalty in BLANK_PENALTIES]
    assert calibrate(*recogniser, references, unit) == BLANK_PENALTIES[int(np.argmin(rates))]
