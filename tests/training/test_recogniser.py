"""What a run trains: text checkpoints found and refused, recognisers that go on learning."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_speechft import SpeechBertForCTC, SpeechBertProcessor
from hf_speechft.training.arguments import ModelArguments
from hf_speechft.training.finetune import FineTuning
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.recogniser import (
    adopt_speechbert,
    find_checkpoint,
    find_rescoring_model,
    is_speechbert,
    make_model,
    make_processor,
)


@pytest.fixture
def speechbert(argv, tmp_path):
    """A SpeechBERT checkpoint of another front-end than the default, untrained."""
    options = {"frontend": "rnn", "subsampling": 2, "feature_type": "mfcc", "feature_size": 13, "normalize": "running"}
    run = FineTuning(parse_arguments(argv(tmp_path / "first", **options)))
    run.trainer.model.save_pretrained(tmp_path / "speechbert")
    run.processor.save_pretrained(tmp_path / "speechbert")
    return tmp_path / "speechbert"


def test_find_checkpoint_takes_folders_and_hub_ids(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bert").mkdir()
    for name, found in [
        ("~/bert", str(tmp_path / "bert")),
        (str(tmp_path / "bert"), str(tmp_path / "bert")),
        ("google-bert/bert-base-uncased", "google-bert/bert-base-uncased"),
        ("gpt2", "gpt2"),
    ]:
        assert find_checkpoint(ModelArguments(model_name_or_path=name)) == found


def test_find_rescoring_model_that_is_named_and_missing_raises_at_once(text_checkpoint):
    def find(name, goes_on=False):
        given = ModelArguments(model_name_or_path=str(text_checkpoint), rescoring_model=name)
        return find_rescoring_model(given, goes_on)

    assert find(None) == find(str(text_checkpoint)) == str(text_checkpoint)
    assert find("none") is find(None, goes_on=True) is None
    with pytest.raises(ValueError, match="--rescoring_model 'lab/no-such-model' cannot be loaded: "):
        find("lab/no-such-model")


def test_adopt_speechbert_takes_what_the_checkpoint_decides(speechbert, text_checkpoint):
    model = adopt_speechbert(ModelArguments(model_name_or_path=str(speechbert), dropout=0.3))
    assert (model.frontend, model.subsampling, model.vocabulary) == ("rnn", 2, "char")
    assert (model.feature_type, model.feature_size, model.sampling_rate) == ("mfcc", 13, 16_000)
    assert (model.normalize, model.dropout) == ("running", 0.3)
    assert is_speechbert(model)
    assert not is_speechbert(ModelArguments(model_name_or_path=str(text_checkpoint)))
    assert not is_speechbert(ModelArguments(model_name_or_path="nobody/nothing"))


def test_adopt_speechbert_says_which_arguments_it_replaces(speechbert, caplog):
    with caplog.at_level(logging.INFO, logger="hf_speechft"):
        adopt_speechbert(ModelArguments(model_name_or_path=str(speechbert), subsampling=8, frontend="rnn"))
    assert "and keeps, feature_type mfcc, feature_size 13, normalize running, subsampling 2" in caplog.text


def test_make_model_of_speechbert_goes_on_with_its_weights_and_adds_new_characters(speechbert, argv, tmp_path):
    _, data, _ = parse_arguments(argv(tmp_path / "run"))
    model = ModelArguments(model_name_or_path=str(speechbert), dropout=0.3, body_dropout=0.2, mask_time_prob=0.07)
    processor = make_processor(model, data, ["a b", "zé"])
    old = SpeechBertProcessor.from_pretrained(speechbert)
    assert processor.tokenizer.get_vocab() == old.tokenizer.get_vocab() | {
        "z": len(old.tokenizer),
        "é": len(old.tokenizer) + 1,
    }
    recogniser, before = make_model(model, processor).eval(), SpeechBertForCTC.from_pretrained(speechbert).eval()
    assert recogniser.config.vocab_size == len(processor.tokenizer)
    assert (recogniser.config.head_dropout, recogniser.config.mask_time_prob) == (0.3, 0.07)
    text_config = recogniser.config.backbone_config
    assert (text_config.hidden_dropout_prob, text_config.attention_probs_dropout_prob) == (0.2, 0.0)
    features = torch.randn(1, 60, 13, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = recogniser(features).logits, before(features).logits
    torch.testing.assert_close(logits[..., : expected.shape[-1]], expected)
    assert torch.isfinite(logits).all()
    recogniser.save_pretrained(tmp_path / "grown")
    processor.save_pretrained(tmp_path / "grown")
    again = SpeechBertForCTC.from_pretrained(tmp_path / "grown").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(features).logits, logits)
    vocabulary = SpeechBertProcessor.from_pretrained(tmp_path / "grown").tokenizer.get_vocab()
    assert vocabulary == processor.tokenizer.get_vocab()


def test_make_processor_of_a_script_without_spaces_has_no_word_marks(text_checkpoint, argv, tmp_path, caplog):
    _, data, _ = parse_arguments(argv(tmp_path / "run"))
    model = ModelArguments(model_name_or_path=str(text_checkpoint))
    with caplog.at_level(logging.INFO, logger="hf_speechft"):
        processor = make_processor(model, data, ["打开灯", "关掉 wifi"])
    assert "each character is a word to the decoder" in caplog.text
    assert (processor.tokenizer.separator, "▁" in processor.tokenizer.get_vocab()) == ("", False)
    processor.save_pretrained(tmp_path / "chinese")
    make_model(model, processor).save_pretrained(tmp_path / "chinese")
    goes_on = ModelArguments(model_name_or_path=str(tmp_path / "chinese"))
    old = processor.tokenizer.get_vocab()
    assert make_processor(goes_on, data, ["开关"]).tokenizer.get_vocab() == old
    assert make_processor(goes_on, data, ["1 2"]).tokenizer.separator == " "
    assert make_processor(goes_on, data, ["wifi"]).tokenizer.get_vocab() == old
    grown = make_processor(goes_on, data, ["turn on"]).tokenizer
    assert (grown.separator, grown.get_vocab()["▁"]) == (" ", len(old))
    assert grown.decode(grown("turn on")["input_ids"], group_tokens=False) == "turn on"


def test_make_model_says_that_a_causal_one_will_not_stream(argv, tmp_path, caplog):
    for attention, normalize, is_told in [
        ("causal", "utterance", True),
        ("causal", "running", False),
        ("bidirectional", "utterance", False),
    ]:
        given, data, _ = parse_arguments(argv(tmp_path / "run", attention=attention, normalize=normalize))
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="hf_speechft"):
            make_model(given, make_processor(given, data, ["a b"]))
        assert ("will not stream: features are normalised over the utterance" in caplog.text) == is_told


def test_make_model_warps_mel_bins_and_refuses_to_warp_cepstra(argv, tmp_path):
    given, data, _ = parse_arguments(argv(tmp_path / "run", frequency_warp=0.1))
    assert make_model(given, make_processor(given, data, ["a b"])).config.frequency_warp == 0.1
    given.feature_type = "mfcc"
    with pytest.raises(ValueError, match=r"--frequency_warp 0.1 moves mel bins, and mfcc features are cepstra"):
        make_model(given, make_processor(given, data, ["a b"]))


def test_make_model_shifts_positions(speechbert, argv, tmp_path):
    for name in ("minilm", str(speechbert)):
        given, data, _ = parse_arguments(argv(tmp_path / "run", model_name_or_path=name, position_shift=20))
        assert make_model(given, make_processor(given, data, ["a b"])).config.position_shift == 20


def test_make_model_of_incomplete_speechbert_raises(speechbert, argv, tmp_path):
    _, data, _ = parse_arguments(argv(tmp_path / "run"))
    model = ModelArguments(model_name_or_path=str(speechbert))
    weights = load_file(speechbert / "model.safetensors")
    del weights["head.weight"]
    save_file(weights, speechbert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of its model, such as head.weight; save it again"):
        make_model(model, make_processor(model, data, ["a"]))


def test_make_processor_of_another_normaliser_raises(speechbert, argv, tmp_path):
    _, data, _ = parse_arguments(argv(tmp_path / "run", text_normalizer="english"))
    with pytest.raises(ValueError, match="normalised by '.*', and --text_normalizer is 'english'; set --text_norm"):
        make_processor(ModelArguments(model_name_or_path=str(speechbert)), data, ["a"])


def test_run_of_speechbert_reports_the_front_end_it_has(speechbert, argv, tmp_path):
    run = FineTuning(parse_arguments(argv(tmp_path / "run", model_name_or_path=speechbert, num_train_epochs=1)))
    run.train_and_report()
    assert json.loads((tmp_path / "run" / "arguments.json").read_text())["frontend"] == "rnn"
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "rnn" in card
    assert f"The speech recogniser `{speechbert}`, fine-tuned further" in card
    assert f"and before that on what the card of {speechbert} says" in card
    assert "The text checkpoint that it was first made from had never heard sound" in card
    for false in (
        "front-end and head new",
        "made from the text checkpoint `",
        "and on no other",
        "| text checkpoint |",
    ):
        assert false not in card
    assert SpeechBertForCTC.from_pretrained(tmp_path / "run").config.subsampling == 2


def test_make_model_takes_the_attention_and_the_dropouts_asked_for(argv, tmp_path):
    options = {"attn_implementation": "eager", "body_dropout": 0.0, "dropout": 0.0}
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **options)))
    assert run.trainer.model.config.backbone_config._attn_implementation == "eager"
    assert {module.p for module in run.trainer.model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_make_model_stretches_positions_and_a_speechbert_keeps_them(argv, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="hf_speechft"):
        run = FineTuning(parse_arguments(argv(tmp_path / "run", max_positions=150)))
    assert "learned positions stretched from 128 to 150" in caplog.text
    assert run.trainer.model.speechbert.max_steps == 150
    run.trainer.model.save_pretrained(tmp_path / "speechbert")
    run.processor.save_pretrained(tmp_path / "speechbert")
    model = adopt_speechbert(ModelArguments(model_name_or_path=str(tmp_path / "speechbert"), max_positions=200))
    assert model.max_positions == 150
    assert make_model(model, run.processor).speechbert.max_steps == 150
