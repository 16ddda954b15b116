"""Loading models and decoders for the command line: every mistake a user can make with folders and names."""

import shutil

import pytest
import torch
from transformers import Wav2Vec2Config
from transformers.utils import logging

from hf_speechft.apps.models import ModelError, load_decoder, load_model
from hf_speechft.decoding import CTCDecoder, rescoring
from hf_speechft.decoding.rescoring import Rescoring, SentenceScorer
from tests.decoding.tiny_language_models import save_tiny


def damage(folder, target, name, content):
    """Copy a model's folder with one file missing or replaced."""
    target.mkdir()
    for path in folder.iterdir():
        if path.name != name and path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    if content is not None:
        (target / name).write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "is a folder without a model"),
        ("config.json", b"{ not json", "config.json cannot be read"),
        ("config.json", b"{}", "type unknown, not a SpeechBERT model"),
        ("model.safetensors", None, "incomplete or damaged"),
        ("model.safetensors", b"cut off", "incomplete or damaged"),
        ("vocab.json", None, "incomplete or damaged"),
        ("processor_config.json", None, "incomplete or damaged"),
    ],
)
def test_load_model_damaged_folder_raises(model_folder, tmp_path, name, content, message):
    folder = damage(model_folder, tmp_path / "damaged", name, content)
    with pytest.raises(ModelError, match=message) as error_info:
        load_model(str(folder))
    assert "\n" not in str(error_info.value)


def test_load_model_missing_weights_raise(model_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = damage(model_folder, tmp_path / "partial", "model.safetensors", None)
    weights = load_file(model_folder / "model.safetensors")
    del weights["head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of its model, such as head\.weight"):
        load_model(str(folder))


def test_load_model_other_architecture_raises(tmp_path):
    Wav2Vec2Config().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a model of type wav2vec2, not a SpeechBERT model"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nothing", "./nothing does not exist"),
        ("/nothing/here", "/nothing/here does not exist"),
        ("a/b/c", "a/b/c does not exist"),
        ("nobody/nothing", "neither a folder nor a model that the Hub gives out"),
        ("not an id", "neither a folder nor a model that the Hub gives out"),
    ],
)
def test_load_model_unknown_name_raises(name, message):
    with pytest.raises(ModelError, match=message):
        load_model(name)


def test_load_model_file_raises(clip):
    with pytest.raises(ModelError, match="is a file"):
        load_model(str(clip))


def test_load_model_unusable_device_raises(model_folder):
    with pytest.raises(ModelError, match="device 'tape' is unknown"):
        load_model(str(model_folder), "tape")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device cuda is not usable here"):
            load_model(str(model_folder), "cuda")


def test_load_model_leaves_logging_as_it_was(model_folder):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    model, _ = load_model(str(model_folder))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert not model.training


def test_load_decoder_is_none_where_nothing_is_asked_for_and_nothing_saved(model_folder):
    loaded = load_model(str(model_folder))
    assert load_decoder(*loaded) is None
    assert load_decoder(*loaded, beams=1) is None
    assert load_decoder(*loaded, beams=5).beam_width == 5
    assert load_decoder(*loaded, hotwords={"zoltan": 8.0}).hotwords == {"zoltan": 8.0}


def test_load_decoder_takes_the_saved_one_and_replaces_what_is_asked_for(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    model, processor = load_model(str(tmp_path / "model"))
    CTCDecoder.from_processor(processor, beam_width=7, word_bonus=0.5).save_pretrained(tmp_path / "model" / "decoder")
    assert load_decoder(model, processor).beam_width == 7
    other = load_decoder(model, processor, beams=3, phrases=["turn on"])
    assert (other.beam_width, other.word_bonus, other.phrases) == (3, 0.5, ["turn on"])
    assert load_decoder(model, processor, beams=1) is None


def test_load_decoder_with_hot_words_that_the_normaliser_makes_one_raises(model_folder):
    model, processor = load_model(str(model_folder))
    processor.tokenizer.text_normalizer = "basic"
    with pytest.raises(ValueError, match=r"of the hot words Anna, anna some are the same once .* \(basic\) has"):
        load_decoder(model, processor, hotwords={"Anna": 8.0, "anna": 2.0})


def test_load_decoder_puts_language_models_of_the_hub_on_the_models_device(model_folder, tmp_path, monkeypatch):
    shutil.copytree(model_folder, tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"), "cpu")
    decoder = CTCDecoder.from_processor(loaded[1])
    scorer = SentenceScorer.from_pretrained(save_tiny("gpt2", tmp_path / "gpt2"))
    decoder.with_rescoring(Rescoring(scorer, weight=1.0)).save_pretrained(tmp_path / "model" / "decoder")
    devices, load = [], rescoring.load_language_model

    def note_device(*given, device, **options):
        devices.append(device)
        return load(*given, device=device, **options)

    monkeypatch.setattr(rescoring, "load_language_model", note_device)
    assert load_decoder(*loaded).rescoring.weight == 1.0
    assert devices == [torch.device("cpu")]


def test_load_decoder_of_another_vocabulary_or_damaged_raises(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    loaded = load_model(str(tmp_path / "model"))
    CTCDecoder(["<pad>", "a"], 0).save_pretrained(tmp_path / "model" / "decoder")
    with pytest.raises(ModelError, match="is for 2 tokens and the model has 31"):
        load_decoder(*loaded)
    (tmp_path / "model" / "decoder" / "decoder_config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_decoder(*loaded)
