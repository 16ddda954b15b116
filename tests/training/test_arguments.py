"""Arguments of a run: recipes, the command line, and both."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from hf_speechft.training import arguments
from hf_speechft.training.arguments import (
    DEMO_RECIPE,
    DataArguments,
    ModelArguments,
    SpeechTrainingArguments,
    computes_in_bfloat16,
    parse_arguments,
)

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size is 0; it needs to be 1 or more"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps is 0"),
        ({"learning_rate": math.nan}, "--learning_rate is nan; it needs to be a number from 0 up"),
        ({"new_learning_rate": -1.0}, "--new_learning_rate is -1.0"),
        ({"step_lr_epochs": 0.0}, "--step_lr_epochs is 0.0; it needs to be above 0"),
        ({"batch_seconds": 0.0}, "--batch_seconds is 0.0; it needs to be above 0"),
        ({"batch_seconds": 9.0, "batch_clips": 0}, "--batch_clips is 0; it needs to be above 0"),
        ({"batch_clips": 4}, "--batch_clips limits the batches that --batch_seconds makes; give that as well"),
        (
            {"batch_seconds": 9.0, "train_sampling_strategy": "random"},
            "--batch_seconds chooses the batches; leave --train_sampling_strategy and --auto_find_batch_size out",
        ),
        ({"batch_seconds": 9.0, "auto_find_batch_size": True}, "--batch_seconds chooses the batches; leave"),
        ({"train_sampling_strategy": "longest"}, "--train_sampling_strategy is 'longest'; choose one of random"),
        ({"remove_unused_columns": True}, "leave --remove_unused_columns"),
        ({"length_column_name": "seconds"}, "leave .*--length_column_name out"),
        ({"metric_for_best_model": "bleu"}, "--metric_for_best_model is 'bleu'; choose one of wer, cer, loss"),
        ({"greater_is_better": True}, "of which less is better"),
        ({"average_checkpoints": 0}, "--average_checkpoints is 0; it needs to be 1 or more"),
        ({"average_checkpoints": 3}, "--average_checkpoints is 3, and --save_total_limit keeps 2; raise it to 3"),
        ({"average_checkpoints": 2, "load_best_model_at_end": False}, "2 needs --load_best_model_at_end"),
        (
            {"early_stopping_patience": 2, "eval_strategy": "no", "load_best_model_at_end": False},
            "--early_stopping_patience needs evaluations: give --eval_strategy epoch or steps",
        ),
    ],
)
def test_training_arguments_that_would_fail_late_raise(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        SpeechTrainingArguments(output_dir=str(tmp_path), **options)


@pytest.mark.parametrize("native", [False, True])
def test_bf16_by_default_is_what_the_machine_computes_in(monkeypatch, native):
    monkeypatch.setattr(arguments, "computes_in_bfloat16", lambda on_cpu: native)
    assert SpeechTrainingArguments().bf16 is native
    assert SpeechTrainingArguments(bf16=False).bf16 is False


def test_computes_in_bfloat16_on_a_cpu_needs_its_instructions(monkeypatch):
    for has_avx, has_amx in [(False, False), (True, False), (False, True)]:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has_avx=has_avx: has_avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has_amx=has_amx: has_amx)
        assert computes_in_bfloat16(on_cpu=True) is (has_avx or has_amx)


def test_computes_in_bfloat16_without_a_gpu_is_false(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert computes_in_bfloat16(on_cpu=False) is False


def test_every_own_argument_has_help():
    for kind in (ModelArguments, DataArguments):
        assert all(field.metadata.get("help") for field in dataclasses.fields(kind))
    own = SpeechTrainingArguments.__annotations__
    fields = {field.name: field for field in dataclasses.fields(SpeechTrainingArguments)}
    assert all(fields[name].metadata.get("help") for name in own)


def test_help_lists_every_argument_and_recipes_work(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for kind in (ModelArguments, DataArguments, SpeechTrainingArguments):
        for field in dataclasses.fields(kind):
            assert not field.init or f"--{field.name} " in text or f"--{field.name}\n" in text
