"""A saved model with random weights, and a clip, for all commands."""

import json

import pytest
import soundfile
import torch
from transformers import BertConfig

from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)

RATE_HZ = 16_000
UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyzäß"]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A saved model with random weights that hears many different units."""
    folder = tmp_path_factory.mktemp("model")
    vocab_file = folder / "vocab.json"
    vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}), encoding="utf-8")
    torch.manual_seed(0)
    backbone = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = SpeechBertForCTC(SpeechBertConfig(backbone_config=backbone, vocab_size=len(UNITS)))
    with torch.no_grad():
        model.head.weight.normal_()
        model.head.bias[1] = -1000.0  # never <unk>
    model.save_pretrained(folder)
    SpeechBertProcessor(SpeechBertFeatureExtractor(), SpeechBertTokenizer(str(vocab_file))).save_pretrained(folder)
    return folder


@pytest.fixture
def clip(tmp_path, waveform):
    path = tmp_path / "clip.wav"
    soundfile.write(path, waveform, RATE_HZ)
    return path
