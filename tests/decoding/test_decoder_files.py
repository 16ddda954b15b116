import json

import pytest

from hf_speechft.decoding.decoder import CTCDecoder
from hf_speechft.decoding.decoder_files import load_decoder, save_decoder
from hf_speechft.decoding.ngram import NGramLM
from hf_speechft.decoding.rescoring import Rescoring, SentenceScorer
from tests.decoding.tiny_language_models import save_tiny

TOKENS = ["<pad>", "|", "a", "b"]


def test_save_decoder_writes_settings_and_language_model(tmp_path):
    decoder = CTCDecoder(TOKENS, 0, lm=NGramLM.from_text(["a b"], 2), hotwords=("ab",), phrases=["a b"])
    save_decoder(decoder, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"decoder_config.json", "lm.safetensors"}
    arguments = load_decoder(tmp_path)
    assert arguments.pop("lm").score("a b") == decoder.lm.score("a b")
    assert arguments == {
        "tokens": TOKENS,
        "blank_id": 0,
        "lm_weight": 0.5,
        "word_bonus": 0.0,
        "unknown_word_score": -5.0,
        "hotwords": ["ab"],
        "phrases": ["a b"],
        "beam_width": 32,
        "token_min_logp": -5.0,
        "beam_prune_logp": -10.0,
        "rescoring": None,
    }


def test_save_decoder_without_language_model_removes_an_earlier_one(tmp_path):
    save_decoder(CTCDecoder(TOKENS, 0, lm=NGramLM.from_text(["a b"], 2)), tmp_path)
    save_decoder(CTCDecoder(TOKENS, 0), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["decoder_config.json"]
    assert load_decoder(tmp_path)["lm"] is None


def test_save_decoder_names_a_causal_language_model(tmp_path):
    class Scorer:
        name_or_path = "user/model"

    save_decoder(CTCDecoder(TOKENS, 0, lm=Scorer()), tmp_path)
    assert json.loads((tmp_path / "decoder_config.json").read_text())["lm"] == {"causal_lm": "user/model"}


def test_load_decoder_loads_the_language_model_that_rescores(tmp_path):
    scorer = SentenceScorer.from_pretrained(save_tiny("gpt2", tmp_path / "lm"))
    rescoring = Rescoring(scorer, 0.3, 0.5, 4)
    save_decoder(CTCDecoder(TOKENS, 0, rescoring=rescoring), tmp_path / "decoder")
    loaded = load_decoder(tmp_path / "decoder")["rescoring"]
    assert (loaded.weight, loaded.word_bonus, loaded.nbest) == (0.3, 0.5, 4)
    assert loaded.scorer.score(["a b"]) == rescoring.scorer.score(["a b"])
    config = json.loads((tmp_path / "decoder" / "decoder_config.json").read_text())
    config["rescoring"]["waight"] = config["rescoring"].pop("weight")
    (tmp_path / "decoder" / "decoder_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="rescoring has or lacks waight, weight; save the decoder again"):
        load_decoder(tmp_path / "decoder")


def test_save_decoder_names_the_folder_of_a_language_model_for_every_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rescoring = Rescoring(SentenceScorer.from_pretrained(save_tiny("gpt2", tmp_path / "lm")), 0.3)
    rescoring.scorer.model.name_or_path = "lm"
    save_decoder(CTCDecoder(TOKENS, 0, rescoring=rescoring), tmp_path / "decoder")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_decoder(tmp_path / "decoder")["rescoring"].weight == 0.3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no decoder: there is no decoder_config.json"),
        ("{", "is no JSON .*; save the decoder again"),
        ('{"tokens": []}', "has or lacks the settings beam_prune_logp, beam_width"),
    ],
)
def test_load_decoder_of_damaged_folder_raises(content, message, tmp_path):
    if content is not None:
        (tmp_path / "decoder_config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_decoder(tmp_path)


def test_load_decoder_without_its_language_model_raises(tmp_path):
    save_decoder(CTCDecoder(TOKENS, 0, lm=NGramLM.from_text(["a b"], 2)), tmp_path)
    (tmp_path / "lm.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks lm.safetensors, the language model that .* names"):
        load_decoder(tmp_path)
