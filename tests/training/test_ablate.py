"""The plan of an ablation: arms, order, what is refused, which runs are still to do, and how they are started."""

import json
import shlex
import signal
import sys

import pytest
import yaml
from typer.testing import CliRunner

from hf_speechft.apps.command import app
from hf_speechft.training import ablate
from hf_speechft.training.ablate import check_runs, check_start, parse_arm, plan_ablation, train
from hf_speechft.training.argument_checks import METHODS
from hf_speechft.training.checkpoints import record_arguments
from hf_speechft.training.finetune import FineTuning
from hf_speechft.training.recipes import parse_arguments


@pytest.fixture
def recipe(corpus, text_checkpoint, tmp_path):
    """A function that writes the recipe of a tiny run; options replace its values."""

    def write(**options):
        values = {
            "model_name_or_path": str(text_checkpoint),
            "dataset": str(corpus),
            "disable_tqdm": True,
            "bf16": False,
            "max_steps": 1,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values | options))
        return str(path)

    return write


@pytest.fixture
def started(monkeypatch):
    """Commands that would have been started; each ends with the code 0."""
    commands = []
    monkeypatch.setattr(ablate, "_execute", lambda command: commands.append(command) or 0)
    return commands


def finish(run, argv=None):
    record_arguments(parse_arguments(list(run.argv if argv is None else argv)))
    (run.folder / "metrics.json").write_text("{}")


@pytest.mark.parametrize(
    ("given", "name", "values"),
    [
        *((method, method, {"method": method}) for method in METHODS),
        ("lora:learning_rate=1e-3", "lora", {"method": "lora", "learning_rate": "1e-3"}),
        ("conv2d:frontend=conv2d,adapter_layers=2", "conv2d", {"frontend": "conv2d", "adapter_layers": "2"}),
        ("slow-fast:speed_factors=0.9 1 1.1", "slow-fast", {"speed_factors": "0.9 1 1.1"}),
        ("slow_lora:method=lora,learning_rate=1e-5", "slow_lora", {"method": "lora", "learning_rate": "1e-5"}),
    ],
)
def test_parse_arm_reads_name_and_values(given, name, values):
    arm = parse_arm(given)
    assert (arm.name, arm.given, dict(arm.values)) == (name, given, values)


def test_plan_ablation_trains_all_arms_of_a_seed_before_the_next_seed(recipe, tmp_path):
    plan = plan_ablation(recipe(), ["random", "full", "rnn:frontend=rnn"], folder=tmp_path / "out", seeds=[7, 3])
    assert [(run.arm, run.seed) for run in plan.runs] == [
        ("random", 7), ("full", 7), ("rnn", 7), ("random", 3), ("full", 3), ("rnn", 3),
    ]  # fmt: skip
    assert [run.folder for run in plan.runs[:2]] == [tmp_path / "out/random/seed7", tmp_path / "out/full/seed7"]


def test_plan_ablation_runs_have_the_arguments_of_recipe_set_and_arm_in_that_order(recipe, tmp_path):
    arms = ["random", "fast:learning_rate=1e-3,num_train_epochs=9,speed_factors=0.9 1 1.1"]
    path = recipe(learning_rate=1e-5, adam_beta2=0.9, num_train_epochs=1)
    plan = plan_ablation(path, arms, folder=tmp_path / "out", settings=["num_train_epochs=4", "max_steps=-1"])
    random, fast = (parse_arguments(list(run.argv)) for run in plan.runs)
    assert (random[2].method, random[2].num_train_epochs, random[2].learning_rate) == ("random", 4, 1e-5)
    assert (fast[2].method, fast[2].num_train_epochs, fast[2].learning_rate) == ("full", 9, 1e-3)
    assert (fast[1].speed_factors, random[1].speed_factors) == ([0.9, 1.0, 1.1], [1.0])
    for training in (random[2], fast[2]):
        assert (training.seed, training.adam_beta2, training.max_steps, training.beam_width) == (42, 0.9, -1, 1)


@pytest.mark.parametrize(
    ("in_recipe", "settings", "width"), [({"beam_width": 4}, [], 4), ({}, ["beam_width=8"], 8), ({}, [], 1)]
)
def test_plan_ablation_decodes_greedily_unless_a_beam_is_set(recipe, tmp_path, in_recipe, settings, width):
    plan = plan_ablation(recipe(**in_recipe), ["random"], folder=tmp_path / "out", settings=settings)
    assert parse_arguments(list(plan.runs[0].argv))[2].beam_width == width


def test_plan_ablation_tells_the_command_that_repeats_it(recipe, tmp_path):
    arms, path = ["full", "random", "slow:speed_factors=0.9 1"], recipe()
    plan = plan_ablation(path, arms, folder=tmp_path / "out", seeds=[1, 2], control="full", settings=["max_steps=2"])
    words = shlex.split(plan.command)
    assert words[:3] == ["hf-speechft", "ablate", path]
    pairs = list(zip(words[3::2], words[4::2], strict=True))
    assert pairs == [
        *(("--arm", arm) for arm in arms), ("--seeds", "1"), ("--seeds", "2"),
        ("--output-dir", str(tmp_path / "out")), ("--control", "full"), ("--set", "max_steps=2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        ([], {}, "no arm was given"),
        (["random"], {"seeds": []}, "no seed was given"),
        (["random", "random"], {}, "--arm random is given twice"),
        (["random"], {"seeds": [1, 2, 1]}, "--seeds 1 is given twice"),
        (["full", "lora"], {}, r"--control random is none of the arms \(full, lora\); add --arm random"),
        (["full"], {"control": "ful"}, "--control ful is none of the arms"),
        (["../up:learning_rate=1"], {}, r"'../up' cannot name a folder"),
        ([":learning_rate=1"], {}, "'' cannot name a folder"),
        (["a b:learning_rate=1"], {}, "'a b' cannot name a folder"),
        (["conv2d"], {}, "'conv2d': say what it changes, as in --arm conv2d:learning_rate=1e-4"),
        (["conv2d:"], {}, "'conv2d:': say what it changes"),
        (["conv2d:frontend"], {}, "--arm conv2d: 'frontend' is not argument=value"),
        (["conv2d:frontend="], {}, "--arm conv2d: 'frontend=' is not argument=value"),
        (["x:frontend=rnn,frontend=stack"], {}, "--arm x: frontend is given twice"),
        (["random:method=full"], {}, "'random:method=full' is named for a method and trains another"),
        (["random", "x:fronted=rnn"], {}, "--arm x: there is no argument 'fronted'; did you mean frontend?"),
        (
            ["random", "x:adapter_layers=two"],
            {},
            "--arm x gives adapter_layers the value 'two', which is not an int",
        ),
        (["random", "x:optim=adamm"], {}, "--arm x: optim is 'adamm'; choose one of adamw_torch,"),
        (["random", "x:load_best_model_at_end=maybe"], {}, "which is not true or false"),
        (["random", "x:method=lorra"], {}, "arm x: --method is 'lorra'; choose one of full,"),
        (["random", "x:lr_scheduler_type=saw"], {}, "arm x: saw is not a valid SchedulerType"),
        (["random", "x:dataset=other"], {}, "--arm x: dataset has to be the same for all arms; .* --set"),
        (["random", "x:seed=3"], {}, "--arm x: seed is not for an ablation to change"),
        (["random", "x:hub_token=abc"], {}, "--arm x: hub_token is not for an ablation to change"),
        (["random"], {"settings": ["output_dir=here"]}, "--set: output_dir is not for an ablation to change"),
        (["random"], {"settings": ["epochs"]}, "--set: 'epochs' is not argument=value"),
        (["random"], {"settings": ["num_train_epoch=5"]}, "--set: .* did you mean num_train_epochs?"),
    ],
)
def test_plan_ablation_with_wrong_input_raises(recipe, tmp_path, arms, options, message):
    with pytest.raises(ValueError, match=message):
        plan_ablation(recipe(), arms, folder=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"push_to_hub": True}, "the recipe sets push_to_hub"),
        ({"overwrite_output_dir": True}, "the recipe sets overwrite_output_dir"),
        ({"fronted": "rnn"}, "'fronted', which does not exist"),
    ],
)
def test_plan_ablation_with_wrong_recipe_raises(recipe, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        plan_ablation(recipe(**values), ["random"], folder=tmp_path / "out")


def test_plan_ablation_without_recipe_raises(tmp_path):
    with pytest.raises(ValueError, match=r"no recipe at missing\.yaml"):
        plan_ablation("missing.yaml", ["random"], folder=tmp_path / "out")


def test_plan_ablation_leaves_finished_runs_and_takes_more_arms_and_seeds(recipe, tmp_path):
    path = recipe()
    first = plan_ablation(path, ["random", "full"], folder=tmp_path / "out")
    finish(first.runs[0])
    assert [(run.arm, run.seed) for run in first.unfinished] == [("full", 42)]
    more = plan_ablation(path, ["random", "full", "lora"], folder=tmp_path / "out", seeds=[42, 43])
    assert [(run.arm, run.seed) for run in more.unfinished] == [
        ("full", 42), ("lora", 42), ("random", 43), ("full", 43), ("lora", 43),
    ]  # fmt: skip


def test_plan_ablation_of_a_run_with_other_arguments_raises(recipe, tmp_path):
    path = recipe()
    first = plan_ablation(path, ["random", "full"], folder=tmp_path / "out")
    for run in first.runs:
        finish(run)
    message = r"random/seed42 holds a run with other arguments \(max_steps 1 -> 2\); go on with the same ones"
    with pytest.raises(ValueError, match=message):
        plan_ablation(path, ["random", "full"], folder=tmp_path / "out", settings=["max_steps=2"])
    (first.runs[0].folder / "metrics.json").unlink()  # without results and checkpoints there is nothing to mix up
    with pytest.raises(ValueError, match="full/seed42 holds"):
        plan_ablation(path, ["random", "full"], folder=tmp_path / "out", settings=["max_steps=2"])


def test_check_start_makes_the_first_unfinished_run_of_each_arm_ready(recipe, tmp_path, started):
    plan = plan_ablation(recipe(), ["random", "full"], folder=tmp_path / "out", seeds=[1, 2])
    finish(plan.runs[0])
    assert check_start(plan) == 0
    assert started[0][:3] == [sys.executable, "-c", ablate.CHECK]
    assert json.loads(started[0][3]) == {"random": list(plan.runs[2].argv), "full": list(plan.runs[1].argv)}
    for run in plan.unfinished:
        finish(run)
    assert check_start(plan) == 0
    assert len(started) == 1


def test_check_runs_finds_what_the_plan_cannot_see(recipe, tmp_path, monkeypatch):
    """Arms may differ in precision, which Accelerate holds for a whole process."""
    arms = ["random", "bf16:bf16=true", "big:frontend=conv3d"]
    plan = plan_ablation(recipe(), arms, folder=tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["-c", json.dumps({run.arm: list(run.argv) for run in plan.runs})])
    with pytest.raises(SystemExit, match="error: arm big: frontend is 'conv3d'; it needs to be one of"):
        check_runs()
    assert all(not run.is_finished for run in plan.runs)


def test_train_starts_the_run_in_a_process_of_its_own(recipe, tmp_path, started):
    run = plan_ablation(recipe(), ["random"], folder=tmp_path / "out").runs[0]
    assert train(run) == 0
    assert started == [[sys.executable, "-c", ablate.TRAIN, *run.argv]]


@pytest.mark.parametrize(("end", "shown"), [("pass", 0), ("exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_train_gives_the_exit_code_as_a_shell_does(recipe, tmp_path, monkeypatch, end, shown):
    run = plan_ablation(recipe(), ["random"], folder=tmp_path / "out").runs[0]
    monkeypatch.setattr(ablate, "TRAIN", f"import os; {end}")
    assert train(run) == shown


def test_train_passes_sigterm_on_to_the_run_and_waits_for_it(recipe, tmp_path, monkeypatch):
    run = plan_ablation(recipe(), ["random"], folder=tmp_path / "out").runs[0]
    save = "import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), exit(143)))"
    monkeypatch.setattr(ablate, "TRAIN", f"{save}; os.kill(os.getppid(), signal.SIGTERM); time.sleep(30)")
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append("to the ablation only"))
    try:
        assert train(run) == 143
        assert came == []
        signal.raise_signal(signal.SIGTERM)
        assert came == ["to the ablation only"]  # no longer passed on
    finally:
        signal.signal(signal.SIGTERM, before)


def kill_in_second_epoch(run):
    """Train a run in this process until it has a checkpoint, and leave it there."""

    def stop(args, state, control):
        if state.epoch and state.epoch >= 1:
            raise KeyboardInterrupt
        return begin(args, state, control)

    fine_tuning = FineTuning(parse_arguments(list(run.argv)))
    begin = fine_tuning.trainer.callback_handler.on_epoch_begin
    fine_tuning.trainer.callback_handler.on_epoch_begin = stop
    with pytest.raises(KeyboardInterrupt):
        fine_tuning.train_and_report()


@pytest.mark.slow
def test_ablate_trains_two_arms_and_goes_on_with_the_one_that_was_killed(recipe, tmp_path, capfd, monkeypatch):
    path, folder = recipe(max_steps=-1, num_train_epochs=2, learning_rate=2e-3), tmp_path / "out"
    plan = plan_ablation(path, ["random", "frozen"], folder=folder)
    kill_in_second_epoch(plan.runs[1])
    command = shlex.split(plan.command)[1:]
    result = CliRunner().invoke(app, command)
    shown = capfd.readouterr()
    assert result.exit_code == 0, shown.err
    assert shown.err.count("going on from") == 1
    assert "frozen/seed42/checkpoint-6" in shown.err
    assert result.stdout == (folder / "ablation.md").read_text() + "\n"
    found = json.loads((folder / "ablation.json").read_text())
    random, frozen = found["arms"]
    assert random["trainable_parameters"] == random["parameters"] == frozen["parameters"]
    assert 0 < frozen["trainable_parameters"] < frozen["parameters"]
    for run, arm in zip(plan.runs, found["arms"], strict=True):
        metrics = json.loads((run.folder / "metrics.json").read_text())
        assert metrics["training"]["optimizer_steps"] == 12
        assert (arm["wer"], arm["cer"]) == (metrics["test"]["wer"], metrics["test"]["cer"])
        assert list(metrics["decoding"]) == ["greedy"]
        assert f"run_finetune.py {path}" in (run.folder / "README.md").read_text()
    monkeypatch.setattr(ablate, "_execute", None)  # nothing is started again
    assert CliRunner().invoke(app, command).stdout == result.stdout
