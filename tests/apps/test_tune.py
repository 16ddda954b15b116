import json
import shutil

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from hf_speechft.apps.command import app
from hf_speechft.data.corpora import load_corpus
from hf_speechft.decoding import CTCDecoder, NGramLM
from hf_speechft.training import tuning
from tests.decoding.tiny_language_models import save_tiny

RATE_HZ = 16_000


def run(*arguments):
    return CliRunner().invoke(app, ["tune", *map(str, arguments)], prog_name="hf-speechft")


@pytest.fixture
def corpus(tmp_path):
    """An audio folder of noise with transcripts."""
    random = np.random.default_rng(0)
    for split, texts in {"train": ["turn on", "turn off"], "validation": ["turn on"], "test": ["off"]}.items():
        folder = tmp_path / "corpus" / split
        folder.mkdir(parents=True)
        lines = ["file_name,transcription,speaker_id"]
        for index, text in enumerate(texts):
            sound = (0.1 * random.standard_normal(RATE_HZ)).astype(np.float32)
            soundfile.write(folder / f"{index}.wav", sound, RATE_HZ)
            lines.append(f"{index}.wav,{text},{split}")
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "corpus"


@pytest.fixture
def model(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    return tmp_path / "model"


def test_tune_saves_a_decoder_with_the_training_transcripts_as_language_model(model, corpus):
    result = run("--model", model, "--dataset", corpus, "--beams", "4")
    assert result.exit_code == 0, result.stderr
    decoder = CTCDecoder.from_pretrained(model / "decoder")
    found = f"lm_weight {decoder.lm_weight:g}, word_bonus {decoder.word_bonus:g}, "
    found += f"unknown_word_score {decoder.unknown_word_score:g}; WER on validation"
    assert found in result.stdout
    assert decoder.beam_width == 4
    expected = NGramLM.from_text(["turn on", "turn off"], 4).score("turn off")
    assert decoder.lm.score("turn off") == pytest.approx(expected, abs=1e-5)


def test_tune_takes_a_language_model_and_keeps_it_when_tuned_again(model, corpus, tmp_path):
    lm = NGramLM.from_text(["lights out", "turn off"], 2)
    lm.write_arpa(tmp_path / "lm.arpa")
    assert run("--model", model, "--dataset", corpus, "--lm", tmp_path / "lm.arpa").exit_code == 0
    assert run("--model", model, "--dataset", corpus).exit_code == 0
    saved = CTCDecoder.from_pretrained(model / "decoder").lm
    assert saved.score("lights out") == pytest.approx(lm.score("lights out"), abs=1e-5)


def test_tune_stores_a_language_model_that_rescores_with_its_weights(model, corpus, tmp_path, monkeypatch):
    """Noise has no right words that a weight could bring, so there is one on offer only, and then none above 0."""
    lm = str(save_tiny("gpt2", tmp_path / "gpt2"))
    monkeypatch.setattr(tuning, "RESCORING_WEIGHTS", (0.3,))
    result = run("--model", model, "--dataset", corpus, "--rescoring-model", lm)
    assert result.exit_code == 0, result.stderr
    decoder = CTCDecoder.from_pretrained(model / "decoder")
    assert decoder.rescoring is not None
    assert (decoder.rescoring.scorer.name_or_path, decoder.rescoring.nbest) == (lm, 10)
    found = f"rescoring weight {decoder.rescoring.weight:g}, word_bonus {decoder.rescoring.word_bonus:g}; WER on"
    assert found in result.stdout
    monkeypatch.setattr(tuning, "RESCORING_WEIGHTS", (0.0,))
    assert "rescoring" not in run("--model", model, "--dataset", corpus, "--rescoring-model", lm).stdout
    assert CTCDecoder.from_pretrained(model / "decoder").rescoring is None


def test_tune_keeps_hot_words_phrases_and_limits(model, corpus):
    assert run("--model", model, "--dataset", corpus).exit_code == 0
    kept = {"hotwords": {"off": 3.0}, "phrases": ["turn on", "off"], "token_min_logp": -7.0, "beam_prune_logp": -9.0}
    CTCDecoder.from_pretrained(model / "decoder", **kept, beam_width=3).save_pretrained(model / "decoder")
    assert run("--model", model, "--dataset", corpus, "--beams", "4").exit_code == 0
    decoder = CTCDecoder.from_pretrained(model / "decoder")
    assert {name: getattr(decoder, name) for name in kept} == kept
    assert decoder.beam_width == 4


def test_tune_does_not_replace_a_causal_language_model_unasked(model, corpus, tmp_path):
    assert run("--model", model, "--dataset", corpus).exit_code == 0
    config = model / "decoder" / "decoder_config.json"
    before = json.dumps(json.loads(config.read_text()) | {"lm": {"causal_lm": "gpt2"}})
    config.write_text(before)
    result = run("--model", model, "--dataset", corpus)
    assert (result.exit_code, config.read_text()) == (1, before)
    assert "has the causal language model gpt2" in result.stderr
    NGramLM.from_text(["off"], 2).write_arpa(tmp_path / "lm.arpa")
    assert run("--model", model, "--dataset", corpus, "--lm", tmp_path / "lm.arpa").exit_code == 0
    config.write_text("{")
    assert f"or remove {model / 'decoder'}" in run("--model", model, "--dataset", corpus).stderr


def test_tune_cuts_a_data_set_without_splits_as_the_run_did(model, tmp_path):
    """The language model is of the training transcripts, and those are the ones of the run with that seed."""
    lines, sound = ["file_name,transcription"], np.zeros(RATE_HZ, np.float32)
    for index in range(20):
        soundfile.write(tmp_path / f"{index}.wav", sound + 0.01 * index, RATE_HZ)
        lines.append(f"{index}.wav,{chr(ord('a') + index)}")
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    words = {}
    for seed in (None, 42, 7):
        result = run("--model", model, "--dataset", tmp_path / "all.csv", *(["--seed", seed] if seed else []))
        assert result.exit_code == 0, result.stderr
        words[seed] = CTCDecoder.from_pretrained(model / "decoder").lm.words
        shutil.rmtree(model / "decoder")
    assert words[None] == words[42] != words[7]
    trained_on = load_corpus(str(tmp_path / "all.csv"), normalizer="none", seed=42)["train"]["text"][:]
    assert set(trained_on) <= set(words[42])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nobody/nothing"], "is no folder; tune a copy"),
        (["--dataset", "./missing"], "missing"),
        (["--lm", "missing.arpa"], "missing.arpa"),
        (["--rescoring-model", "./missing"], "missing"),
    ],
)
def test_tune_with_missing_input_is_one_line_of_error(model, corpus, options, message):
    result = run("--model", model, "--dataset", corpus, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert not (model / "decoder").exists()


def test_tune_leaves_out_what_the_model_cannot_hear_and_takes_other_splits_and_columns(model, corpus, tmp_path):
    (corpus / "train").rename(corpus / "train.100")
    rows = ["file_name,words", "0.wav,turn on", "short.wav,off", "broken.wav,off", "silent.wav,"]
    (corpus / "validation" / "metadata.csv").write_text("\n".join(rows) + "\n")
    for split, name in (("train.100", "0"), ("test", "0")):
        (corpus / split / "metadata.csv").write_text(f"file_name,words\n{name}.wav,turn off\n")
    soundfile.write(corpus / "validation" / "short.wav", np.zeros(100, np.float32), RATE_HZ)
    soundfile.write(corpus / "validation" / "silent.wav", np.zeros(RATE_HZ, np.float32), RATE_HZ)
    (corpus / "validation" / "broken.wav").write_bytes(b"no sound")
    arguments = ("--model", model, "--dataset", corpus, "--train-split", "train.100", "--text-column", "words")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "WER on validation" in result.stdout
    assert result.stdout.strip().endswith("1 utterances")
