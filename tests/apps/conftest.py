"""A saved model with random weights, and a clip, for all commands."""

import pytest
import soundfile
from transformers import BertConfig

from tests.random_recogniser import make_recogniser

RATE_HZ = 16_000


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A saved model with random weights that hears many different units."""
    folder = tmp_path_factory.mktemp("model")
    backbone = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    for part in make_recogniser(folder, backbone):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def clip(tmp_path, waveform):
    path = tmp_path / "clip.wav"
    soundfile.write(path, waveform, RATE_HZ)
    return path
