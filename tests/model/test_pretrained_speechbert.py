"""What the model with and without a head have from their base class: initial weights, parts, saved class names."""

import json

import pytest
import torch

from hf_speechft import SpeechBertConfig, SpeechBertForCTC, SpeechBertModel
from tests.model.tiny_text_models import bert_config

CLASSES = {"AutoModel": SpeechBertModel, "AutoModelForCTC": SpeechBertForCTC}


def make_model(model_class, **fields):
    torch.manual_seed(0)
    return model_class(SpeechBertConfig(backbone_config=bert_config(), vocab_size=9, num_mel_bins=8, **fields))


@pytest.mark.parametrize("model_class", CLASSES.values())
def test_input_embeddings_are_the_front_end(model_class):
    model = make_model(model_class)
    base = getattr(model, "speechbert", model)
    assert model.get_input_embeddings() is base.frontend


@pytest.mark.parametrize("model_class", CLASSES.values())
def test_parts_that_stay_together_are_the_front_end_and_the_bodys_layers(model_class):
    model = make_model(model_class)
    assert model._no_split_modules >= {"Conv1dFrontend", "BertLayer"}
    assert model._no_split_modules <= {type(module).__name__ for module in model.modules()}  # FSDP refuses others


def test_lstm_begins_within_the_bounds_of_its_width():
    model = make_model(SpeechBertModel, frontend="rnn")
    (lstm, *_) = (module for module in model.modules() if isinstance(module, torch.nn.LSTM))
    bound = lstm.hidden_size**-0.5
    weights = torch.cat([parameter.flatten() for parameter in lstm.parameters()])
    assert 0.9 * bound < weights.abs().max() <= bound
    assert abs(weights.mean()) < 0.1 * bound


@pytest.mark.parametrize(("name", "model_class"), CLASSES.items())
def test_folder_that_is_saved_with_code_names_the_class_of_each_auto_class(tmp_path, monkeypatch, name, model_class):
    monkeypatch.setattr(model_class, "_auto_class", name)
    make_model(model_class).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert {kind: saved[kind] for kind in CLASSES} == {
        kind: f"modeling_speechbert.{one.__name__}" for kind, one in CLASSES.items()
    }
    assert (tmp_path / "pretrained_speechbert.py").is_file()
