"""Where a run starts, and that going on from a checkpoint gives the run that was not interrupted."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCTC

from hf_speechft import SpeechBertForCTC
from hf_speechft.training import arguments
from hf_speechft.training.arguments import SpeechTrainingArguments
from hf_speechft.training.checkpoints import find_start, is_trained, record_arguments, remove_run
from hf_speechft.training.finetune import FineTuning, main
from hf_speechft.training.recipes import parse_arguments
from tests.training.interruption import InterruptAt

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make_arguments(argv, tmp_path):
    """A function that parses the arguments of a run in `tmp_path / "run"`."""
    return lambda **options: parse_arguments(argv(tmp_path / "run", **options))


@pytest.fixture
def make_checkpoint(tmp_path):
    """A function that writes what `find_start` looks at."""

    def make(step, state='{"global_step": 1}'):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
        return str(folder)

    return make


def test_find_start_new_or_empty_folder_starts_anew(make_arguments, tmp_path):
    assert find_start(make_arguments()) is None
    (tmp_path / "run").mkdir()
    assert find_start(make_arguments()) is None


def test_find_start_unfinished_run_goes_on_from_its_last_checkpoint(make_arguments, make_checkpoint):
    for step in (9, 100, 20):
        make_checkpoint(step)
    record_arguments(make_arguments())
    assert find_start(make_arguments()).endswith("checkpoint-100")


@pytest.mark.parametrize("state", [None, "", '{"global_step": 1'])
def test_find_start_passes_over_a_partial_checkpoint(make_arguments, make_checkpoint, state):
    make_checkpoint(6)
    make_checkpoint(12, state)
    record_arguments(make_arguments())
    assert find_start(make_arguments()).endswith("checkpoint-6")


def test_find_start_takes_the_newest_checkpoint_evaluated_or_not(make_arguments, make_checkpoint, tmp_path):
    make_checkpoint(6)
    (tmp_path / "run" / "unevaluated").mkdir()
    between = Path(make_checkpoint(9)).rename(tmp_path / "run" / "unevaluated" / "checkpoint-9")
    record_arguments(make_arguments())
    assert find_start(make_arguments()) == str(between)
    newest = make_checkpoint(12)
    assert find_start(make_arguments()) == newest
    remove_run(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_find_start_with_partial_checkpoints_only_starts_anew(make_arguments, make_checkpoint):
    make_checkpoint(6, None)
    assert find_start(make_arguments()) is None


def test_find_start_ignores_folders_that_only_look_like_checkpoints(make_arguments, make_checkpoint):
    make_checkpoint("best")
    assert find_start(make_arguments()) is None


def test_find_start_finished_run_raises(make_arguments, make_checkpoint, tmp_path):
    make_checkpoint(6)
    (tmp_path / "run" / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="run holds a finished run; choose another --output_dir, or replace it"):
        find_start(make_arguments())


def test_find_start_other_arguments_raise_and_are_listed(make_arguments, make_checkpoint):
    make_checkpoint(6)
    record_arguments(make_arguments(seed=1, learning_rate=1e-3))
    with pytest.raises(ValueError, match="unfinished run with other arguments") as caught:
        find_start(make_arguments(seed=2, learning_rate=1e-3, subsampling=8))
    message = str(caught.value)
    assert "seed 1 -> 2" in message
    assert "subsampling 4 -> 8" in message
    assert "learning_rate" not in message
    assert "start anew with --overwrite_output_dir" in message


@pytest.mark.parametrize(
    "options",
    [
        {"disable_tqdm": False},
        {"push_to_hub": True, "hub_model_id": "user/name", "hub_token": "hf_x"},
        {"cache_dir": "/tmp/cache"},
        {"max_corrupt_files": 3},
        {"per_device_eval_batch_size": 3},
        {"beam_width": 1},
        {"lm_order": 2},
        {"rescoring_model": "none"},
        {"save_total_limit": 1},
        {"resume_from_checkpoint": "true"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_find_start_arguments_that_do_not_change_the_result_may_differ(make_arguments, make_checkpoint, options):
    make_checkpoint(6)
    record_arguments(make_arguments())
    assert find_start(make_arguments(**options)).endswith("checkpoint-6")


def test_find_start_an_argument_that_a_newer_version_brought_counts_as_its_default(
    make_arguments, make_checkpoint, tmp_path
):
    make_checkpoint(9)
    record_arguments(make_arguments())
    file = tmp_path / "run" / "arguments.json"
    recorded = json.loads(file.read_text())
    del recorded["clean_epochs"], recorded["noise_snr_db"]  # a number and a list
    file.write_text(json.dumps(recorded))
    assert find_start(make_arguments()).endswith("checkpoint-9")
    with pytest.raises(ValueError, match=r"other arguments \(clean_epochs 0 -> 1\)"):
        find_start(make_arguments(clean_epochs=1))


def test_record_arguments_holds_no_token(make_arguments, tmp_path):
    record_arguments(make_arguments(push_to_hub=True, hub_token="hf_secret"))
    text = (tmp_path / "run" / "arguments.json").read_text()
    assert "hf_secret" not in text
    assert json.loads(text)["subsampling"] == 4


def test_find_start_overwriting_starts_anew_and_removes_nothing_yet(make_arguments, make_checkpoint, tmp_path):
    make_checkpoint(6)
    (tmp_path / "run" / "metrics.json").write_text("{}")
    assert find_start(make_arguments(overwrite_output_dir=True)) is None
    assert (tmp_path / "run" / "checkpoint-6" / "trainer_state.json").exists()


def test_remove_run_removes_the_run_and_nothing_else(make_arguments, make_checkpoint, tmp_path):
    for step in (6, 12, "best"):
        make_checkpoint(step)
    record_arguments(make_arguments())
    for name in ("metrics.json", "notes.txt"):
        (tmp_path / "run" / name).write_text("x")
    for name in ("warmup", "stream", "decoder"):
        (tmp_path / "run" / name).mkdir()
    remove_run(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-best", "notes.txt"]


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"learning_rate": 5e-4}, "learning_rate 0.001 -> 0.0005"),
        ({"early_stopping_patience": 2}, "early_stopping_patience 0 -> 2"),
        ({"metric_for_best_model": "cer"}, "metric_for_best_model 'wer' -> 'cer'"),
        ({"step_lr_epochs": 2}, "step_lr_epochs None -> 2.0"),
    ],
)
def test_find_start_asked_for_checkpoint_with_what_it_would_ignore_raises(
    make_arguments, make_checkpoint, options, changed
):
    asked = make_checkpoint(6)
    record_arguments(make_arguments(learning_rate=1e-3))
    with pytest.raises(
        ValueError, match=rf"checkpoint-6 goes on with its optimiser and state \({changed} would be ign"
    ):
        find_start(make_arguments(**{"learning_rate": 1e-3, "resume_from_checkpoint": asked} | options))
    longer = {"learning_rate": 1e-3, "num_train_epochs": 9, "resume_from_checkpoint": asked}
    assert find_start(make_arguments(**longer)) == asked


def test_find_start_on_another_number_of_processes_raises(make_arguments, make_checkpoint, monkeypatch):
    make_checkpoint(6)
    record_arguments(make_arguments())
    monkeypatch.setattr(SpeechTrainingArguments, "world_size", 4)
    with pytest.raises(ValueError, match="other arguments .*world_size 1 -> 4"):
        find_start(make_arguments())


def test_find_start_on_a_machine_that_computes_in_another_type_goes_on(argv, make_checkpoint, tmp_path, monkeypatch):
    make_checkpoint(6)
    words = argv(tmp_path / "run")
    place = words.index("--bf16")
    for native in (True, False):
        monkeypatch.setattr(arguments, "computes_in_bfloat16", lambda on_cpu, native=native: native)
        given = parse_arguments(words[:place] + words[place + 2 :])
        assert given[2].bf16 is native
        if native:
            record_arguments(given)
    assert find_start(given).endswith("checkpoint-6")
    with pytest.raises(ValueError, match="bf16 None -> False"):
        find_start(parse_arguments(words))


def test_find_start_asked_for_checkpoint_is_taken(make_arguments, make_checkpoint):
    make_checkpoint(3, '{"global_step": 3}')
    asked = make_checkpoint(6, '{"global_step": 6}')
    assert find_start(make_arguments(resume_from_checkpoint=asked)) == asked


def test_find_start_asked_for_checkpoint_where_the_folder_holds_more_raises(make_arguments, make_checkpoint, tmp_path):
    asked = make_checkpoint(6, '{"global_step": 6}')
    make_checkpoint(12, '{"global_step": 12}')
    message = "run holds checkpoint-12, which a run from .*checkpoint-6 would be mixed up with; choose another --"
    with pytest.raises(ValueError, match=message):
        find_start(make_arguments(resume_from_checkpoint=asked))
    (tmp_path / "run" / "metrics.json").touch()
    with pytest.raises(ValueError, match="run holds a finished run; choose another --output_dir to go on from .*nt-6"):
        find_start(make_arguments(resume_from_checkpoint=asked))


def test_find_start_asked_for_checkpoint_of_another_run_where_one_is_unfinished_raises(
    make_arguments, make_checkpoint, tmp_path
):
    asked = tmp_path / "other" / "checkpoint-6"
    Path(make_checkpoint(6, '{"global_step": 6}')).parent.rename(tmp_path / "other")
    assert find_start(make_arguments(resume_from_checkpoint=asked)) == str(asked)
    make_checkpoint(3, '{"global_step": 3}')
    with pytest.raises(ValueError, match="run holds checkpoint-3, which a run from .*checkpoint-6 would be mixed up"):
        find_start(make_arguments(resume_from_checkpoint=asked))


def test_find_start_asked_to_resume_and_to_overwrite_raises(make_arguments, make_checkpoint):
    make_checkpoint(6)
    record_arguments(make_arguments())
    with pytest.raises(ValueError, match="--overwrite_output_dir removes what --resume_from_checkpoint needs"):
        find_start(make_arguments(resume_from_checkpoint="true", overwrite_output_dir=True))


def test_find_start_asked_for_checkpoint_missing_raises_and_names_the_others(make_arguments, make_checkpoint):
    make_checkpoint(6)
    make_checkpoint(12)
    with pytest.raises(
        ValueError, match=r"checkpoint-7 is no whole checkpoint, as it lacks trainer_state.json; those"
    ):
        find_start(make_arguments(resume_from_checkpoint="checkpoint-7"))
    with pytest.raises(ValueError, match="checkpoint-6, checkpoint-12$"):
        find_start(make_arguments(resume_from_checkpoint="checkpoint-7"))


def test_find_start_asked_to_resume_where_nothing_is_raises(make_arguments):
    with pytest.raises(ValueError, match="--resume_from_checkpoint was given, but .*run holds no whole checkpoint"):
        find_start(make_arguments(resume_from_checkpoint="True"))


def test_find_start_folder_that_is_a_file_raises(make_arguments, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ValueError, match="--output_dir .*run is a file; give the path of a folder"):
        find_start(make_arguments())


RANDOM = {"mask_time_prob": 0.2, "mask_feature_prob": 0.2, "dropout": 0.1, "speed_factors": [0.9, 1.0]}
EPOCHS = RANDOM | {"num_train_epochs": 3, "per_device_train_batch_size": 24, "logging_steps": 2}
STEPS = EPOCHS | {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3}


def evaluations(run):
    """The log without what a clock says."""
    timed = ("runtime", "per_second", "minutes", "flos", "train_loss")
    return [
        {name: value for name, value in entry.items() if not any(part in name for part in timed)}
        for entry in run.trainer.state.log_history
    ]


@pytest.mark.parametrize(
    ("options", "resumed_from"),
    [
        (EPOCHS, 4),  # at the end of an epoch of 4 updates
        (STEPS, 6),  # in the middle of one
        (STEPS | {"batch_seconds": 16}, 6),
        (EPOCHS | {"frontend": "rnn", "step_lr_epochs": 1, "early_stopping_patience": 2, "optim": "adamw_torch"}, 4),
    ],
    ids=["epochs", "steps", "seconds", "rnn"],
)
def test_resumed_run_equals_the_run_that_was_not_interrupted(argv, tmp_path, options, resumed_from):
    whole = FineTuning(parse_arguments(argv(tmp_path / "whole", **options)))
    whole.train_and_report()
    interrupted = FineTuning(parse_arguments(argv(tmp_path / "part", **options)))
    interrupted.trainer.add_callback(InterruptAt(7))
    with pytest.raises(KeyboardInterrupt):
        interrupted.train_and_report()
    resumed = FineTuning(parse_arguments(argv(tmp_path / "part", **options)))
    assert resumed.checkpoint.endswith(f"checkpoint-{resumed_from}")
    resumed.train_and_report()

    assert resumed.trainer.state.global_step == whole.trainer.state.global_step
    last = f"checkpoint-{whole.trainer.state.global_step}/model.safetensors"
    for name in ("model.safetensors", last):
        expected, found = load_file(tmp_path / "whole" / name), load_file(tmp_path / "part" / name)
        assert expected.keys() == found.keys()
        for key, weight in expected.items():
            assert torch.equal(found[key], weight), f"{name}: {key}"
    assert evaluations(resumed) == evaluations(whole)
    for name in ("predictions.jsonl", "vocab.json", "arguments.json"):
        one, other = ((tmp_path / folder / name).read_text() for folder in ("whole", "part"))
        assert one.replace("whole", "part") == other


def test_run_that_was_killed_after_training_only_reports(argv, tmp_path, monkeypatch):
    arguments = argv(tmp_path / "run", max_steps=2)
    monkeypatch.setattr("hf_speechft.training.finetune.write_report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        FineTuning(parse_arguments(arguments)).train_and_report()
    trained = load_file(tmp_path / "run" / "model.safetensors")
    minutes = json.loads((tmp_path / "run/checkpoint-2/trainer_state.json").read_text())["log_history"][-1]["minutes"]
    monkeypatch.undo()
    metrics = FineTuning(parse_arguments(arguments)).train_and_report()
    assert metrics["training"]["optimizer_steps"] == 2
    assert metrics["training"]["minutes"] >= minutes > 0
    again = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(again[name], weight) for name, weight in trained.items())


def test_run_that_stopped_early_and_was_killed_then_only_reports(argv, tmp_path, monkeypatch):
    options = {"early_stopping_patience": 1, "num_train_epochs": 6, "per_device_train_batch_size": 24}
    arguments = argv(tmp_path / "run", learning_rate=0, new_learning_rate=0, **options)
    monkeypatch.setattr("hf_speechft.training.finetune.write_report", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        FineTuning(parse_arguments(arguments)).train_and_report()
    monkeypatch.undo()
    assert FineTuning(parse_arguments(arguments)).train_and_report()["training"]["epochs"] == 2.0


def test_checkpoint_of_a_run_that_ended_is_trained_on_where_it_is_named(argv, tmp_path):
    main(argv(tmp_path / "short", max_steps=1))
    asked = tmp_path / "short" / "checkpoint-1"
    assert is_trained(str(asked))
    main(argv(tmp_path / "long", max_steps=2, resume_from_checkpoint=asked))
    metrics = json.loads((tmp_path / "long" / "metrics.json").read_text())
    assert metrics["training"]["optimizer_steps"] == 2


def test_is_trained_without_the_trainers_control_is_false(make_checkpoint):
    assert is_trained(make_checkpoint(6)) is False


def test_early_stopping_goes_on_counting_after_a_resumption(argv, tmp_path):
    options = {"early_stopping_patience": 2, "num_train_epochs": 6, "per_device_train_batch_size": 24}
    options |= {"learning_rate": 0, "new_learning_rate": 0}  # the WER never gets better
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **options)))
    run.trainer.add_callback(InterruptAt(5))
    with pytest.raises(KeyboardInterrupt):
        run.train_and_report()
    resumed = FineTuning(parse_arguments(argv(tmp_path / "run", **options)))
    assert resumed.checkpoint.endswith("checkpoint-4")
    assert resumed.train_and_report()["training"]["epochs"] == 3.0


# Dies while optimizer.pt of the second checkpoint is being written, as a machine that loses its power would.
KILLED = """
import os, signal, sys, torch
save = torch.save

def save_or_die(value, path, *args, **kwargs):
    if "checkpoint-4" in str(path):
        with open(path, "wb") as file:
            file.write(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    return save(value, path, *args, **kwargs)

torch.save = save_or_die
torch.set_num_threads(1)
from hf_speechft.training.finetune import main
main(sys.argv[1:])
"""


def test_run_killed_while_saving_goes_on_from_the_last_whole_checkpoint(argv, tmp_path):
    arguments = argv(tmp_path / "run", num_train_epochs=3, per_device_train_batch_size=24)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, env=environment, capture_output=True)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    partial, whole = tmp_path / "run" / "checkpoint-4", tmp_path / "run" / "checkpoint-2"
    assert (partial / "model.safetensors").exists()
    assert not (partial / "trainer_state.json").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()
    model = AutoModelForCTC.from_pretrained(whole)
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())
    run = FineTuning(parse_arguments(arguments))
    assert run.checkpoint == str(whole)
    assert run.train_and_report()["training"]["optimizer_steps"] == 6
    assert (partial / "trainer_state.json").exists()


def test_full_disk_at_the_final_save_is_said_and_loses_nothing(argv, tmp_path, monkeypatch):
    save = SpeechBertForCTC.save_pretrained

    def save_until_full(self, folder, *args, **kwargs):
        if "checkpoint-" not in str(folder):
            (Path(folder) / "model.safetensors").write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, folder, *args, **kwargs)

    monkeypatch.setattr(SpeechBertForCTC, "save_pretrained", save_until_full)
    arguments = argv(tmp_path / "run", max_steps=2)
    with pytest.raises(SystemExit, match="error: .*the disk is full or the quota used up: saving to .*run needs more"):
        main(arguments)
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not list((tmp_path / "run").glob(".saving-*"))
    AutoModelForCTC.from_pretrained(tmp_path / "run" / "checkpoint-2")
    monkeypatch.undo()
    main(arguments)  # space was freed
    assert (tmp_path / "run" / "metrics.json").exists()


def test_full_disk_at_a_checkpoint_is_said_and_loses_nothing(argv, tmp_path, monkeypatch):
    save = torch.save

    def save_until_full(value, path, *args, **kwargs):
        if "checkpoint-4" in str(path):
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: No space left on device")
        return save(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save_until_full)
    arguments = argv(tmp_path / "run", num_train_epochs=2, per_device_train_batch_size=24)
    with pytest.raises(
        SystemExit, match="error: .*checkpoint-4 could not be saved in .*run; those before it are whole"
    ):
        main(arguments)
    AutoModelForCTC.from_pretrained(tmp_path / "run" / "checkpoint-2")
    assert not (tmp_path / "run" / "checkpoint-4").exists()  # its part took space for nothing
    monkeypatch.undo()
    assert find_start(parse_arguments(arguments)).endswith("checkpoint-2")
    assert FineTuning(parse_arguments(arguments)).train_and_report()["training"]["optimizer_steps"] == 4


def test_full_disk_at_the_report_is_said_and_leaves_the_run_unfinished(argv, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hf_speechft.training.finetune.write_report", fail)
    with pytest.raises(SystemExit, match="error: .*the disk is full"):
        main(argv(tmp_path / "run", max_steps=1))
    assert not (tmp_path / "run" / "metrics.json").exists()
    AutoModelForCTC.from_pretrained(tmp_path / "run")


def test_find_start_refuses_to_remove_the_checkpoint_that_the_run_starts_from(argv, tmp_path):
    checkpoint = tmp_path / "run" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    options = {"overwrite_output_dir": True, "model_name_or_path": checkpoint}
    with pytest.raises(ValueError, match="would remove .*checkpoint-3, the checkpoint to start from; choose another"):
        find_start(parse_arguments(argv(tmp_path / "run", **options)))
    assert checkpoint.is_dir()
