import shutil

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from hf_speechft.apps.command import app
from hf_speechft.decoding import CTCDecoder, NGramLM

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
    assert f"lm_weight {decoder.lm_weight:g}, word_bonus {decoder.word_bonus:g}; WER on validation" in result.stdout
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nobody/nothing"], "is no folder; tune a copy"),
        (["--dataset", "./missing"], "missing"),
        (["--lm", "missing.arpa"], "missing.arpa"),
    ],
)
def test_tune_with_missing_input_is_one_line_of_error(model, corpus, options, message):
    result = run("--model", model, "--dataset", corpus, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert not (model / "decoder").exists()
