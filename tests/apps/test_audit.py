import json

import pytest
from typer.testing import CliRunner

from hf_speechft.apps.audit import find_units
from hf_speechft.apps.command import app
from hf_speechft.apps.models import ModelError
from tests.data.audit_corpora import Corpus, sound


def run(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)], prog_name="hf-speechft")


@pytest.fixture
def flawed(tmp_path):
    """A corpus in which train8 is too short for its words, and test0 is train4."""
    corpus = Corpus(tmp_path / "corpus")
    corpus.set("train8.wav", samples=sound(0.5))
    corpus.set("test0.wav", samples=corpus.rows["train4.wav"][3])
    return corpus.write()


def test_audit_of_a_clean_corpus_says_that_all_is_fine(tmp_path):
    result = run(Corpus(tmp_path).write())
    assert result.exit_code == 0, result.stderr
    assert "the headers of 20 files, the sound of 20" in result.stdout
    assert "PROBLEM" not in result.stdout
    assert "\nlook" not in result.stdout
    assert "\nfine     files, decoding, duplicates across splits" in result.stdout


def test_audit_summary_names_flaws_and_remedies_on_one_screen(flawed):
    result = run(flawed)
    assert result.exit_code == 0, result.stderr
    assert "PROBLEM  duplicates across splits: 1 recording in several splits" in result.stdout
    unwrapped = " ".join(result.stdout.split())
    assert "alignment at 4x: 1 utterance cannot be aligned at 4x, 0 at 2x [train train8.wav]" in unwrapped
    assert "use --subsampling 2 or the native vocabulary" in unwrapped
    lines = result.stdout.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines[1:])) <= 120  # the first line names the folder


def test_audit_json_is_stable(flawed, tmp_path):
    written = []
    for number in range(2):
        file = tmp_path / "new" / f"{number}.json"
        assert run(flawed, "--json", file, "--sample", 7).exit_code == 0
        written.append(file.read_text(encoding="utf-8"))
    assert written[0] == written[1]
    content = json.loads(written[0])
    assert list(content) == ["dataset", "text_normalizer", "subsampling", "seed", "splits", "sampled", "findings"]
    assert (content["subsampling"], content["sampled"], content["text_normalizer"]) == (4, 7, "basic")
    [across] = [finding for finding in content["findings"] if finding["check"] == "duplicates across splits"]
    assert (across["severity"], across["count"]) == ("problem", 1)
    assert across["utterances"][0]["utterance_id"] == "test0.wav"


def test_audit_html_is_written(flawed, tmp_path):
    assert run(flawed, "--html", tmp_path / "page.html").exit_code == 0
    assert "<h1>Audit of" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_audit_takes_options_as_run_finetune_spells_them(tmp_path):
    corpus = Corpus(tmp_path).write()
    for old, new in (("train", "clean"), ("test", "hard")):
        (corpus / old).rename(corpus / new)
    result = run(corpus, "--train_split", "clean", "--test-split", "hard", "--text_column", "transcription")
    assert result.exit_code == 0, result.stderr
    assert "20 files" in result.stdout


def test_audit_with_a_model_takes_its_units(model_folder, tmp_path):
    corpus = Corpus(tmp_path)
    corpus.set("train1.wav", text="turn the light öff")
    result = run(corpus.write(), "--model", model_folder)
    assert result.exit_code == 0, result.stderr
    assert "1 character not in the model's vocabulary: ö (1)" in result.stdout


def test_find_units_of_a_model_can_be_overridden(model_folder):
    units, normalizer = find_units(str(model_folder), None, None)
    assert (units.subsampling, normalizer, units.are_characters) == (4, "none", True)
    assert {"a", "ä"} <= units.characters
    assert units.count_needed_steps("all in") == 7
    units, normalizer = find_units(str(model_folder), 2, "english")
    assert (units.subsampling, normalizer) == (2, "english")


def test_find_units_without_a_model_count_as_the_features_do():
    units, normalizer = find_units(None, None, None)
    assert (units.subsampling, units.characters, normalizer) == (4, None, "basic")
    assert (units.count_steps(1.0, 4), units.count_steps(1.0, 8), units.count_steps(0.001, 4)) == (25, 13, 0)


def test_find_units_of_no_model_raises(tmp_path):
    with pytest.raises(ModelError, match="without a model"):
        find_units(str(tmp_path), None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./missing"], "no such file or folder"),
        (["CORPUS", "--train-split", "noisy"], "there is no split 'noisy'; the corpus has"),
        (["CORPUS", "--text-normalizer", "x"], "text normaliser 'x' is unknown"),
        (["CORPUS", "--subsampling", "3"], "--subsampling is 3; front-ends make one step of 2, 4 or 8"),
        (["CORPUS", "--model", "./missing"], "./missing does not exist"),
        (["CORPUS", "--json", "/proc/x/y.json"], "/proc/x/y.json cannot be written"),
    ],
)
def test_audit_error_is_one_line(arguments, message, tmp_path):
    corpus = Corpus(tmp_path).write()
    result = run(*(corpus if argument == "CORPUS" else argument for argument in arguments))
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
