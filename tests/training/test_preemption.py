"""SIGTERM and crashes at any update: what is saved, how the process ends, and that nothing is lost."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import get_worker_info

from hf_speechft.training.arguments import SpeechTrainingArguments
from hf_speechft.training.checkpoints import find_start, whole_checkpoints
from hf_speechft.training.finetune import FineTuning, main
from hf_speechft.training.preemption import Preemption
from hf_speechft.training.recipes import parse_arguments
from tests.training.interruption import InterruptAt, TerminateAt

ROOT = Path(__file__).resolve().parents[2]
# Everything that draws random numbers or reads ahead; 4 updates of 2 batches an epoch.
EVERYTHING = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 13,
    "gradient_accumulation_steps": 2,
    "dataloader_num_workers": 1,
    "logging_steps": 1,
    "speed_factors": [0.9, 1.0],
    "gain_db": 6,
    "silence_share": 0.05,
    "mask_time_prob": 0.2,
    "dropout": 0.1,
    "beam_width": 1,
}


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def losses_of(run):
    return [(entry["step"], entry["loss"]) for entry in run.trainer.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def whole(argv, tmp_path_factory):
    """The run that was not interrupted: its folder and its losses."""
    folder = tmp_path_factory.mktemp("whole")
    run = FineTuning(parse_arguments(argv(folder, **EVERYTHING)))
    run.train_and_report()
    assert run.trainer.state.global_step == 8
    return folder, losses_of(run)


def go_on(argv, folder, whole, **options):
    """Go on with a run to its end, and compare it with the whole one."""
    run = FineTuning(parse_arguments(argv(folder, **EVERYTHING | options)))
    run.train_and_report()
    for name in ("model.safetensors", "checkpoint-8/model.safetensors"):
        found = load_file(folder / name)
        for key, weight in load_file(whole[0] / name).items():
            assert torch.equal(found[key], weight), f"{name}: {key}"
    assert losses_of(run) == whole[1]
    assert not (folder / "unevaluated").exists()
    assert (folder / "predictions.jsonl").read_bytes() == (whole[0] / "predictions.jsonl").read_bytes()


def end_worker(rows):
    """Send SIGTERM to the worker that reads, before it has made its first batch."""
    if get_worker_info() is not None:
        os.kill(os.getpid(), signal.SIGTERM)
    return rows


def test_workers_of_training_and_evaluation_outlive_sigterm_from_their_start(argv, tmp_path, whole):
    run = FineTuning(parse_arguments(argv(tmp_path, **EVERYTHING)))
    for corpus in (run.trainer.train_dataset, run.trainer.eval_dataset):
        corpus.set_transform(end_worker)
    run.trainer.train()  # what follows training is ended by the signal, and made again by the same command
    assert losses_of(run) == whole[1]


@pytest.mark.parametrize("step", [2, 4, 7])  # within an epoch, at its end, within the last
def test_run_ended_by_sigterm_goes_on_to_the_weights_of_the_whole_run(argv, tmp_path, whole, caplog, step):
    caplog.set_level(logging.INFO, logger="hf_speechft")
    before = signal.getsignal(signal.SIGTERM)
    run = FineTuning(parse_arguments(argv(tmp_path, **EVERYTHING)))
    run.trainer.add_callback(TerminateAt(step))
    with pytest.raises(SystemExit) as ended:
        run.train_and_report()
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert f"ended by SIGTERM; {step} of 8 updates are made and saved in {tmp_path}" in caplog.text
    # The last update of an epoch is evaluated first, and is then a checkpoint as any other.
    expected = tmp_path / f"checkpoint-{step}" if step == 4 else tmp_path / "unevaluated" / f"checkpoint-{step}"
    assert find_start(parse_arguments(argv(tmp_path, **EVERYTHING))) == str(expected)
    go_on(argv, tmp_path, whole)


def test_run_that_crashed_between_evaluations_goes_on_to_the_weights_of_the_whole_run(argv, tmp_path, whole):
    options = {"save_strategy": "steps", "save_steps": 2}
    run = FineTuning(parse_arguments(argv(tmp_path, **EVERYTHING | options)))
    run.trainer.add_callback(InterruptAt(7))
    with pytest.raises(KeyboardInterrupt):
        run.train_and_report()
    names = [path.relative_to(tmp_path).as_posix() for path in whole_checkpoints(tmp_path)]
    assert names == ["checkpoint-4", "unevaluated/checkpoint-6"]
    go_on(argv, tmp_path, whole, **options)


def test_sigterm_at_the_last_update_ends_after_its_checkpoint(argv, tmp_path):
    options = {"max_steps": 2, "beam_width": 1, "eval_strategy": "no", "save_strategy": "no"}
    options |= {"load_best_model_at_end": False}
    run = FineTuning(parse_arguments(argv(tmp_path, **options)))
    run.trainer.add_callback(TerminateAt(2))
    with pytest.raises(SystemExit):
        run.train_and_report()
    assert not (tmp_path / "metrics.json").exists()
    main(argv(tmp_path, **options))
    assert json.loads((tmp_path / "metrics.json").read_text())["training"]["optimizer_steps"] == 2


def test_sigterm_while_training_ends_is_heeded_too():
    with pytest.raises(SystemExit) as ended, Preemption().listening(SpeechTrainingArguments()):
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({}, ""),
        ({"resume_from_checkpoint": "true"}, ""),
        ({"overwrite_output_dir": True}, ", without --overwrite_output_dir,"),
        ({"resume_from_checkpoint": "runs/a/checkpoint-7"}, ", with --resume_from_checkpoint true,"),
    ],
)
def test_message_names_the_command_that_goes_on(options, changed, caplog):
    """The same command would remove the checkpoint that was just saved, or start from the named one again."""
    caplog.set_level(logging.INFO, "hf_speechft.training.preemption")
    with (
        pytest.raises(SystemExit),
        Preemption().listening(SpeechTrainingArguments(**options)),
    ):
        signal.raise_signal(signal.SIGTERM)
    assert f"the same command{changed} goes on from there" in caplog.text


def test_listening_in_another_thread_leaves_signals_alone():
    entered = []

    def listen():
        with Preemption().listening(SpeechTrainingArguments()):
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert entered == [signal.SIG_DFL]


def test_command_ends_with_status_143(argv, tmp_path):
    """The command as a cluster ends it: the signal goes to all its processes."""
    options = {"num_train_epochs": 100_000, "eval_strategy": "no", "save_strategy": "epoch"}
    options |= {"load_best_model_at_end": False, "dataloader_num_workers": 1}
    command = [sys.executable, "run_finetune.py", *argv(tmp_path / "run", **options)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until_s = time.monotonic() + 120
        while not whole_checkpoints(tmp_path / "run") and time.monotonic() < until_s:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, said
    assert "ended by SIGTERM" in said
    assert "Traceback" not in said
    last = whole_checkpoints(tmp_path / "run")[-1]
    assert f"{last.name.removeprefix('checkpoint-')} of 600000 updates are made and saved" in said
    assert all(torch.isfinite(weight).all() for weight in weights_of(last).values())
