"""The command line itself: help, version, usage errors, and how fast it starts."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hf_speechft
from hf_speechft.apps.command import app, main

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), prog_name="hf-speechft")


def test_main_without_arguments_shows_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hf-speechft"])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code in (0, 2)
    shown = capsys.readouterr()
    assert "transcribe" in shown.out + shown.err


def test_help_names_sub_commands():
    result = run("--help")
    assert result.exit_code == 0
    assert "Usage: hf-speechft" in result.output
    assert "transcribe" in result.output


def test_version_prints_the_package_version():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"hf-speechft {hf_speechft.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transkribe"], "No such command"),
        (["transcribe"], "Missing argument"),
        (["transcribe", "a.wav", "--modell", "x"], "No such option"),
        (["transcribe", "a.wav", "--batch-size", "0"], "--batch-size"),
    ],
)
def test_usage_error_exits_with_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr


def test_help_does_not_import_torch():
    """Help appears at once, because libraries that take seconds to import wait until there is work."""
    script = (
        "import sys; from hf_speechft.apps.command import app\n"
        "try:\n    app(['transcribe', '--help'], prog_name='hf-speechft')\nexcept SystemExit:\n    pass\n"
        "sys.exit(int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "--model" in done.stdout
