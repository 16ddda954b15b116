"""README.md keeps its promises: commands, options, files, links and code examples exist in this repository."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
SET_UP = "python -m venv .venv && . .venv/bin/activate && pip install -e "


def code_blocks(text, *languages):
    """List the fenced blocks of `text` in these languages."""
    blocks = re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
    return [code for language, code in blocks if language in languages]


def marked_command(name):
    """Return what stands between `<!-- name -->` and `<!-- /name -->`, without the fence."""
    found = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, flags=re.DOTALL)
    assert len(found) == 1, f"README.md needs one <!-- {name} --> … <!-- /{name} -->, found {len(found)}"
    return "".join(code_blocks(found[0], "bash")).strip()


def shell_commands():
    """List the commands in README.md's shell blocks as lists of words: continued lines joined, split at && ; |."""
    lines = "\n".join(code_blocks(README, "bash", "sh", "shell", "console")).replace("\\\n", " ").splitlines()
    pieces = [piece for line in lines for piece in re.split(r"&&|;|\|", line.removeprefix("$ "))]
    return [shlex.split(piece, comments=True) for piece in pieces if piece.strip()]


def options_after(word):
    """List (words between `word` and the first option, option) for each `--option` of the commands with `word`."""
    found = []
    for command in shell_commands():
        if word in command:
            arguments = command[command.index(word) + 1 :]
            options = [argument.split("=")[0] for argument in arguments if argument.startswith("--")]
            found += [(arguments, option) for option in options]
    return found


@cache
def help_text(*command):
    """Return what `python <command> --help` prints, wide and without colours."""
    environment = {**os.environ, "COLUMNS": "250", "TERM": "dumb", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, *command, "--help"]
    result = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, f"{shlex.join(run)} failed:\n{result.stderr}"
    return re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)


def command_help(*subcommands):
    start = "import sys; from hf_speechft.apps.command import main; sys.argv[0] = 'hf-speechft'; main()"
    return help_text("-c", start, *subcommands)


def subcommands_of(arguments):
    """The sub-command that arguments of hf-speechft begin with; those of `lm` have one of their own."""
    words = arguments[: 2 if arguments[0] == "lm" else 1]
    return [word for word in words if not word.startswith("-")]


def test_main_command_sets_up_and_trains_with_the_default_recipe():
    command = marked_command("main-command")
    assert command.startswith(SET_UP)
    assert command.endswith(" && accelerate launch run_finetune.py")
    assert (ROOT / "run_finetune.py").is_file()
    assert (ROOT / "recipes" / "demo.yaml").is_file(), "run_finetune.py without arguments runs recipes/demo.yaml"


def test_test_command_sets_up_and_runs_pytest():
    command = marked_command("test-command")
    assert command.startswith(SET_UP)
    assert command.endswith(" && python -m pytest")
    assert "\n" not in command


@pytest.mark.parametrize(("name", "needed"), [("main-command", {"train", "demo"}), ("test-command", set(EXTRAS))])
def test_marked_command_installs_extras_that_exist(name, needed):
    extras = re.search(r"\.\[([\w,]+)\]", marked_command(name))[1].split(",")
    assert set(extras) == needed <= set(EXTRAS)


def test_continuous_integration_runs_exactly_the_test_command():
    shown = subprocess.run([ROOT / ".ci" / "run", "--show"], capture_output=True, text=True, timeout=30, check=True)
    assert shown.stdout.strip() == marked_command("test-command")


def test_every_extra_that_is_named_exists():
    named = {extra for group in re.findall(r"(?:\.|hf_speechft)\[([\w, ]+)\]", README) for extra in group.split(",")}
    assert {extra.strip() for extra in named} <= set(EXTRAS)


def test_every_path_that_is_named_exists():
    folders = r"(?:recipes|benchmarks|tests|hf_speechft|model_cards|\.ci)"
    named = re.findall(rf"(?<![\w/.-])({folders}/[\w./*-]*[\w*/]|\w+\.py)", README)
    scripts = {path for path in named if "/" not in path and path.startswith("run_")}
    missing = [path for path in {*scripts, *(p for p in named if "/" in p)} if not any(ROOT.glob(path.rstrip("/")))]
    assert not missing, f"README.md names paths that don't exist: {sorted(missing)}"


def test_every_relative_link_leads_somewhere():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", prose, flags=re.MULTILINE)
    # GitHub's anchor of a heading: lower case, punctuation dropped, blanks to hyphens.
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        if (path and not (ROOT / path).exists()) or (not path and anchor not in anchors):
            broken.append(target)
    assert not broken, f"README.md links to {broken}, which don't exist"


def test_every_python_block_compiles_and_imports_names_that_exist():
    for block in code_blocks(README, "python", "py"):
        lines = block.splitlines()
        if any(line.startswith(">>> ") for line in lines):  # a session: keep what was typed, drop what was printed
            block = "\n".join(line[4:] for line in lines if line.startswith((">>>", "...")))
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hf_speechft":
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"README.md imports {missing} from {node.module}, which has no such names"


def test_every_option_of_the_command_line_exists():
    for arguments, option in options_after("hf-speechft"):
        subcommands = subcommands_of(arguments)
        known = re.findall(r"--[\w-]+", command_help(*subcommands))
        assert option in known, f"README.md uses hf-speechft {subcommands} {option}; known: {sorted(set(known))}"


def test_every_subcommand_of_the_command_line_exists():
    for command in shell_commands():
        if command[0] == "hf-speechft" and len(command) > 1 and not command[1].startswith("-"):
            assert "Usage: hf-speechft" in command_help(*subcommands_of(command[1:]))


def test_every_option_of_the_training_script_exists():
    for _, option in options_after("run_finetune.py"):
        known = re.findall(r"--[\w-]+", help_text("run_finetune.py"))
        assert option in known, f"README.md uses run_finetune.py {option}, which `--help` does not list"


def test_every_make_target_that_is_named_exists():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert targets == ["install", "check", "test", "bench"]
    assert set(re.findall(r"(?:`|&& )make (\w+)", README + CONTRIBUTING)) <= set(targets)
