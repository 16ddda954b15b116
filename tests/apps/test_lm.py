"""`hf-speechft lm`: models from text files, scores of text, and every mistake a user can make with files."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_speechft.apps import lm as lm_module
from hf_speechft.apps.command import app
from hf_speechft.apps.lm import Normalizer, load_lm
from hf_speechft.data.text import NORMALIZERS
from hf_speechft.decoding.ngram import NGramLM
from tests.apps.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = ["turn on the light", "turn off the light", "öffne die Tür"]


def run(*arguments):
    return CliRunner().invoke(app, ["lm", *map(str, arguments)], prog_name="hf-speechft")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "begin"), [("lm.arpa", b"\\data\\"), ("lm.arpa.gz", b"\x1f\x8b"), ("lm.safetensors", b"")]
)
def test_build_writes_the_model_and_one_line(text, tmp_path, name, begin):
    result = run("build", text, "--order", "3", "-o", tmp_path / name)
    assert (result.exit_code, result.stderr) == (0, "")
    expected = NGramLM.from_text(SENTENCES, 3)
    assert expected.counts == [11, 11, 10]
    said = f"{tmp_path / name}: 11 1-grams, 11 2-grams, 10 3-grams from 3 sentences, "
    assert result.stdout.startswith(said)
    assert result.stdout.endswith(" s\n")
    assert result.stdout.count("\n") == 1
    loaded = load_lm(str(tmp_path / name))
    assert (loaded.order, loaded.words) == (3, expected.words)
    assert loaded.score("turn on the Tür") == expected.score("turn on the Tür")
    assert (tmp_path / name).read_bytes().startswith(begin)


def test_build_default_order_is_four(text, tmp_path):
    run("build", text, "-o", tmp_path / "lm.safetensors")
    assert NGramLM.load(tmp_path / "lm.safetensors").order == 4


def test_build_several_files_with_empty_lines_and_byte_order_mark(text, tmp_path):
    more = tmp_path / "more.txt"
    more.write_bytes("\ufeffdim the light\r\n\r\n   \r\nturn on the radio".encode())
    result = run("build", text, more, "-o", tmp_path / "lm.arpa")
    assert "from 5 sentences" in result.stdout
    expected = NGramLM.from_text([*SENTENCES, "dim the light", "turn on the radio"], 4)
    assert NGramLM.from_arpa(tmp_path / "lm.arpa").words == expected.words


def test_build_normalizer_is_applied(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Turn on the caf\u00e9-light!\n...\n", encoding="utf-8")
    result = run("build", text, "--normalizer", "english", "-o", tmp_path / "lm.arpa")
    assert "from 1 sentences" in result.stdout
    assert NGramLM.from_arpa(tmp_path / "lm.arpa").words[3:] == ["turn", "on", "the", "cafe", "light"]


def test_characters_are_words_where_asked_for(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("好的，打开灯。\nปิ\n", encoding="utf-8")
    arguments = ("--normalizer", "basic", "--characters")
    assert run("build", text, *arguments, "-o", tmp_path / "lm.arpa").exit_code == 0
    assert NGramLM.from_arpa(tmp_path / "lm.arpa").words[3:] == [*"好的打开灯", "ปิ"]
    assert "2 sentences, 6 words (0 unknown)" in run("score", tmp_path / "lm.arpa", text, *arguments).stderr


def test_normalizers_are_those_of_the_data_folder():
    assert [str(normalizer) for normalizer in Normalizer] == list(NORMALIZERS)


def test_build_reads_a_pipe(text, tmp_path):
    with subprocess.Popen(["cat", text], stdout=subprocess.PIPE) as copy:
        result = run("build", f"/dev/fd/{copy.stdout.fileno()}", "-o", tmp_path / "lm.arpa")
    assert "from 3 sentences" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.txt", "-o", "lm.arpa"], "missing.txt does not exist; give text files"),
        ([".", "-o", "lm.arpa"], ". is a folder; give text files"),
        (["empty.txt", "-o", "lm.arpa"], "empty.txt: the text has no words; give sentences, one a line"),
        (["text.txt", "latin.txt", "-o", "lm.arpa"], "latin.txt, line 2 is not UTF-8; convert the file"),
        (["text.txt", "marked.txt", "-o", "lm.arpa"], "marked.txt, line 3: 'a <s>' holds <s>, which the model itself"),
        (["text.txt", "-o", "lm.arpa", "--order", "0"], "--order is 0; it needs to be 1 or more"),
        (["text.txt", "-o", "lm.txt"], "lm.txt has an unknown ending; -o needs one of .arpa, .arpa.gz, .safetensors"),
        (["text.txt", "-o", "missing/lm.arpa"], "missing/lm.arpa cannot be written: its folder does not exist"),
        (["text.txt", "-o", "taken.arpa"], "taken.arpa cannot be written: Is a directory"),
        (["text.txt", "-o", "taken.safetensors"], "taken.safetensors cannot be written: Is a directory"),
    ],
)
def test_build_bad_input_is_one_line_on_stderr(text, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n")
    Path("latin.txt").write_bytes("gut\nTür\n".encode("latin-1"))
    Path("marked.txt").write_text("b\n\na <s>\n")
    Path("taken.arpa").mkdir()
    Path("taken.safetensors").mkdir()
    result = run("build", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"hf-speechft: {message}")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("lm.*"))
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["text.txt"], "Missing option"), (["-o", "lm.arpa"], "Missing argument"), (["a", "--normalizer", "x"], "'x'")],
)
def test_build_usage_error_exits_with_2(arguments, message):
    result = run("build", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_score_prints_sentences_and_perplexity(text, tmp_path):
    run("build", text, "-o", tmp_path / "lm.arpa")
    other = tmp_path / "other.txt"
    other.write_text("turn on the radio\n\nthe light\n")
    result = run("score", tmp_path / "lm.arpa", other)
    lm = NGramLM.from_arpa(tmp_path / "lm.arpa")
    scores = [lm.score("turn on the radio"), lm.score("the light")]
    assert result.exit_code == 0
    assert result.stdout == f"{scores[0]:.4f}\tturn on the radio\n{scores[1]:.4f}\tthe light\n"
    perplexity = 10 ** -(sum(scores) / 8)  # 6 words and 2 sentence ends
    assert result.stderr == f"2 sentences, 6 words (1 unknown), perplexity {perplexity:.2f}\n"


@pytest.mark.parametrize(
    ("model", "file", "message"),
    [
        ("missing.arpa", "text.txt", "missing.arpa cannot be read: No such file or directory"),
        ("missing.safetensors", "text.txt", "missing.safetensors cannot be read: No such file or directory"),
        ("text.txt", "text.txt", "text.txt, line 3: the file ends without a line \\data\\"),
        ("text.safetensors", "text.txt", "text.safetensors is not in the form"),
        ("lm.arpa", "missing.txt", "missing.txt does not exist"),
        ("lm.arpa", "empty.txt", "empty.txt has no words; give sentences, one a line"),
    ],
)
def test_score_bad_input_is_one_line_on_stderr(text, tmp_path, monkeypatch, model, file, message):
    monkeypatch.chdir(tmp_path)
    NGramLM.from_text(SENTENCES, 2).write_arpa("lm.arpa")
    Path("empty.txt").touch()
    Path("text.safetensors").write_bytes(text.read_bytes())
    result = run("score", model, file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"hf-speechft: {message}")
    assert result.stderr.count("\n") == 1


def test_text_shows_a_bar_on_a_terminal(text, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(lm_module._Text([str(text)], "none", False)) == SENTENCES
    assert f"/{text.stat().st_size}" in terminal.shown


def test_build_in_a_process_writes_nothing_else(text, tmp_path):
    command = [
        sys.executable,
        "-m",
        "hf_speechft.apps.command",
        "lm",
        "build",
        str(text),
        "-o",
        str(tmp_path / "lm.arpa"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


def test_lm_help_does_not_import_torch():
    script = (
        "import sys; from hf_speechft.apps.command import app\n"
        "try:\n    app(['lm', 'build', '--help'], prog_name='hf-speechft')\nexcept SystemExit:\n    pass\n"
        "sys.exit(int('torch' in sys.modules or 'numba' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "--order" in done.stdout
