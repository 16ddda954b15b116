"""The command `hf-speechft ablate`: what it starts, prints and writes, with runs that are made up.

`tests/training/test_ablate.py` has real ones.
"""

import json

import pytest
import yaml
from typer.testing import CliRunner

from hf_speechft.apps.command import app
from hf_speechft.training import ablate
from hf_speechft.training.checkpoints import record_arguments
from hf_speechft.training.recipes import parse_arguments

HYPOTHESES = {"full": "turn on the light", "random": "turn the"}
COSTS = {
    "minutes": 1.0, "warmup": None, "peak_memory_gb": 1.0, "peak_gpu_memory_gb": None, "parameters": 9,
    "trainable_parameters": 9, "hardware": "2 CPU cores", "versions": {"torch": "2.11.0"},
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"dataset": "corpus", "bf16": False}))
    return path


@pytest.fixture
def trained(monkeypatch):
    """Arm and seed of runs as they are "trained"; those in `codes` end with that code instead."""
    runs = []
    runs_codes = {}

    def execute(command):
        if command[2] == ablate.CHECK:
            return runs_codes.get("check", 0)
        arguments = parse_arguments(command[3:])
        training = arguments[2]
        runs.append((training.method, training.seed))
        if code := runs_codes.get(runs[-1], 0):
            return code
        record_arguments(arguments)
        write_results(training)
        return 0

    monkeypatch.setattr(ablate, "_execute", execute)
    return runs, runs_codes


def write_results(training):
    folder = ablate.Path(training.output_dir)
    line = {"utterance_id": "a", "reference": "turn on the light", "hypothesis": HYPOTHESES[training.method]}
    (folder / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    data = [{"name": "test", "utterances": 1, "duration_s": 2.0}]
    (folder / "metrics.json").write_text(json.dumps({"data": data, "training": COSTS}))


def run(recipe, *arguments):
    options = [] if "--arm" in arguments else ["--arm", "full", "--arm", "random"]
    output = ["--output-dir", str(recipe.parent / "out")]
    return CliRunner().invoke(app, ["ablate", str(recipe), *output, *options, *arguments], prog_name="hf-speechft")


def test_ablate_trains_seed_by_seed_and_prints_the_table(recipe, trained):
    result = run(recipe, "--seeds", "1", "--seeds", "2")
    assert result.exit_code == 0, result.stderr
    assert trained[0] == [("full", 1), ("random", 1), ("full", 2), ("random", 2)]
    assert "| full | 0.0 % (0.0 to 0.0) | 2: 0.0 to 0.0 | 0.0 % | -50.0 (-50.0 to -50.0) | 0.0002 |" in result.stdout
    assert "| random | 50.0 % (50.0 to 50.0) |" in result.stdout
    assert "arm random, seed 1 (run 2 of 4)" in result.stderr
    written = {path.name for path in (recipe.parent / "out").iterdir() if path.is_file()}
    assert written == {"ablation.md", "ablation.json", "ablation.png"}


def test_ablate_stops_at_a_failed_run_and_goes_on_from_there(recipe, trained):
    runs, codes = trained
    codes[("random", 42)] = 3
    result = run(recipe)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "arm random, seed 42 ended with exit code 3, see above; when the cause is gone, the same" in result.stderr
    assert "Not finished: 1 of 2 runs (random with seed 42)" in (recipe.parent / "out" / "ablation.md").read_text()
    codes.clear()
    assert run(recipe).exit_code == 0
    assert runs == [("full", 42), ("random", 42), ("random", 42)]
    again = run(recipe)
    assert (again.exit_code, len(runs)) == (0, 3)
    assert "| random | 50.0 %" in again.stdout


def test_ablate_with_an_input_that_no_run_can_take_trains_nothing(recipe, trained):
    runs, codes = trained
    codes["check"] = 1
    result = run(recipe)
    assert (result.exit_code, result.stdout, runs) == (1, "", [])
    assert "nothing was trained; see the error above" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arm", "lora"], "--control random is none of the arms (lora)"),
        (["--control", "lora"], "--control lora is none of the arms (full, random)"),
        (["--set", "fronted=rnn"], "there is no argument 'fronted'; did you mean frontend?"),
        (["--set", "num_train_epochs=many"], "num_train_epochs the value 'many', which is not a number"),
        (["--arm", "random", "--arm", "x:method=loraa"], "arm x: --method is 'loraa'; choose one of full"),
    ],
)
def test_ablate_with_wrong_input_is_one_line_of_error(recipe, trained, arguments, message):
    result = run(recipe, *arguments)
    assert (result.exit_code, result.stdout, trained[0]) == (1, "", [])
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_ablate_without_recipe_file_is_one_line_of_error(tmp_path, trained):
    result = run(tmp_path / "missing.yaml")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no recipe at" in result.stderr


@pytest.mark.parametrize("arguments", [["--seeds", "-1"], ["--seeds", "one"]])
def test_ablate_with_a_wrong_seed_is_a_usage_error(recipe, trained, arguments):
    result = run(recipe, *arguments)
    assert (result.exit_code, trained[0]) == (2, [])
    assert "--seeds" in result.stderr
