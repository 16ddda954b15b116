"""How arguments are given: recipes, the command line, and both."""

import dataclasses
import json
from pathlib import Path

import pytest

from hf_speechft.training.arguments import DataArguments, ModelArguments, SpeechTrainingArguments
from hf_speechft.training.recipes import DEMO_RECIPE, parse_arguments

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    """A function that writes a recipe and returns its path."""

    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_parse_arguments_recipe_sets_values(recipe, tmp_path):
    path = recipe(f"dataset: here\nsubsampling: 8\nnum_train_epochs: 2.5\noutput_dir: {tmp_path}\nbf16: false\n")
    model, data, training = parse_arguments([path])
    assert (model.subsampling, data.dataset, training.num_train_epochs) == (8, "here", 2.5)
    assert (training.output_dir, training.bf16) == (str(tmp_path), False)
    assert model.vocabulary == ModelArguments().vocabulary


def test_parse_arguments_command_line_replaces_values_of_the_recipe(recipe):
    path = recipe("dataset: here\nsubsampling: 8\nseed: 3\nspeed_factors: [0.9, 1.0]\n")
    model, data, training = parse_arguments([path, "--subsampling", "2", "--speed_factors", "1.0", "1.2"])
    assert (model.subsampling, training.seed, data.speed_factors) == (2, 3, [1.0, 1.2])


def test_parse_arguments_json_recipe_equals_yaml(recipe):
    values = {"dataset": "here", "learning_rate": 1e-3, "speed_factors": [0.9, 1.1], "load_best_model_at_end": True}
    yaml_path, json_path = recipe(json.dumps(values)), recipe(json.dumps(values, indent=1), "recipe.json")
    (_, yaml_data, yaml_training), (_, json_data, json_training) = map(parse_arguments, ([yaml_path], [json_path]))
    assert yaml_data == json_data
    assert yaml_training.learning_rate == json_training.learning_rate == 1e-3


def test_parse_arguments_without_any_is_the_demo_recipe():
    model, data, training = parse_arguments([])
    assert data.dataset == "demo"
    assert model.model_name_or_path == "minilm"
    assert training.output_dir == "runs/demo"
    assert parse_arguments([str(DEMO_RECIPE)])[:2] == (model, data)


def test_parse_arguments_options_alone_replace_values_of_the_demo_recipe():
    model, data, training = parse_arguments(["--seed", "7", "--frontend=rnn"])
    assert (data.dataset, training.output_dir, training.seed, model.frontend) == ("demo", "runs/demo", 7, "rnn")


@pytest.mark.parametrize("argv", [["--dataset", "here"], ["--dataset=here"]])
def test_parse_arguments_dataset_without_recipe_uses_defaults(argv):
    model, data, training = parse_arguments(argv)
    assert data == DataArguments(dataset="here")
    assert model == ModelArguments()
    assert training.output_dir == "runs/speechbert"


def test_parse_arguments_reads_the_command_line_by_default(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run_finetune.py", "--dataset", "here", "--seed", "5"])
    _, data, training = parse_arguments()
    assert (data.dataset, training.seed) == ("here", 5)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_of_the_project_parses(path):
    model, data, training = parse_arguments([str(path)])
    assert data.dataset
    assert Path(training.output_dir).name == path.stem
    assert training.output_dir.startswith("runs/")
    assert isinstance(training.learning_rate, float)
    assert model.subsampling in (2, 4, 8)


def test_recipes_of_the_project_are_the_documented_ones():
    assert {"demo", "an4", "librispeech-100"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("written", ["3e-4", "3E-4", "3.0e-4", "0.0003", "'3e-4'"])
def test_recipe_number_in_any_notation_is_a_number(recipe, written):
    _, _, training = parse_arguments([recipe(f"dataset: here\nlearning_rate: {written}\n")])
    assert training.learning_rate == 3e-4


def test_recipe_single_value_for_a_list_is_a_list(recipe):
    assert parse_arguments([recipe("dataset: here\nspeed_factors: 1.1\n")])[1].speed_factors == [1.1]
    assert parse_arguments([recipe("dataset: here\nspeed_factors: [9e-1, 1]\n")])[1].speed_factors == [0.9, 1.0]


def test_recipe_null_and_mappings_are_kept(recipe):
    path = recipe("dataset: here\nsave_total_limit: null\nlr_scheduler_kwargs: {num_cycles: 1}\n")
    training = parse_arguments([path])[2]
    assert training.save_total_limit is None
    assert training.lr_scheduler_kwargs == {"num_cycles": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("subsampling: four", "gives subsampling the value 'four', which is not an integer"),
        ("subsampling: 4.5", "gives subsampling the value 4.5, which is not an integer"),
        ("learning_rate: fast", "gives learning_rate the value 'fast', which is not a number"),
        ("learning_rate: [1, 2]", r"gives learning_rate the value \[1, 2\], which is not a number"),
        ("speed_factors: [1, quick]", "gives speed_factors the value .*, which is not a number"),
        ("push_to_hub: perhaps", "gives push_to_hub the value 'perhaps', which is not true or false"),
        ("subsamplin: 4", "names the argument 'subsamplin', which does not exist; did you mean subsampling\\?"),
        ("wholly_unlike: 4", "names the argument 'wholly_unlike', which does not exist; see run_finetune.py --help"),
        ("7: 4", "names the argument 7, which does not exist"),
    ],
)
def test_recipe_with_a_mistake_raises(recipe, line, message):
    with pytest.raises(ValueError, match=f"recipe.yaml {message}"):
        parse_arguments([recipe(f"dataset: here\n{line}\n")])


@pytest.mark.parametrize("text", ["- dataset\n- here\n", "dataset", "", "3"])
def test_recipe_that_is_no_mapping_raises(recipe, text):
    with pytest.raises(ValueError, match="recipe.yaml holds .*a recipe is a mapping from argument to value"):
        parse_arguments([recipe(text)])


def test_recipe_that_is_no_yaml_raises(recipe):
    with pytest.raises(ValueError, match=r"recipe.json is not YAML: .*line 1"):
        parse_arguments([recipe('{"dataset": ', "recipe.json")])


def test_recipe_that_is_missing_raises():
    with pytest.raises(ValueError, match="no recipe at recipes/absent.yaml; give the path of a YAML or JSON file"):
        parse_arguments(["recipes/absent.yaml"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--subsmpling", "4"], "there is no argument --subsmpling; did you mean subsampling"),
        (["--wholly_unlike=4"], "there is no argument --wholly_unlike; see run_finetune.py --help"),
        (["--seed", "1", "recipes/an4.yaml"], "'recipes/an4.yaml' is the value of no argument; a recipe comes first"),
    ],
)
def test_command_line_with_an_unknown_argument_raises(argv, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--dataset", "here", *argv])


def test_help_lists_every_argument_and_recipes_work(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for kind in (ModelArguments, DataArguments, SpeechTrainingArguments):
        for field in dataclasses.fields(kind):
            assert not field.init or f"--{field.name} " in text or f"--{field.name}\n" in text
