"""Runs on a stream: what they refuse, what they learn from, and that an interruption changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_speechft.training import corpus as corpus_module
from hf_speechft.training.finetune import FineTuning
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.streaming import _StreamCollator
from tests.training.interruption import InterruptAt

ROOT = Path(__file__).resolve().parents[2]
STREAM = {
    "streaming": True,
    "shuffle_buffer": 16,
    "max_steps": 16,
    "per_device_train_batch_size": 8,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 4,
    "save_steps": 4,
    "beam_width": 1,
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -1}, "--streaming true has no epochs to count; give --max_steps"),
        (
            {"eval_strategy": "epoch", "save_strategy": "epoch"},
            "no epochs, after which --eval_strategy epoch could",
        ),
        ({"batch_seconds": 30}, "--batch_seconds needs the durations of all utterances"),
        ({"step_lr_epochs": 1}, "--step_lr_epochs needs the durations"),
        ({"silence_share": 0.1}, "--silence_share needs the durations"),
        ({"shuffle_buffer": 0}, "--shuffle_buffer is 0; it needs to be 1 or more"),
    ],
)
def test_streaming_refuses_what_needs_a_length(argv, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        FineTuning(parse_arguments(argv(tmp_path, **(STREAM | options))))


def test_resumed_run_on_a_stream_equals_the_run_that_was_not_interrupted(argv, tmp_path):
    """16 batches of 8 are 2.7 passes over 48 utterances; the checkpoint is saved behind 8 batches, in the second."""
    options = STREAM | {"speed_factors": [0.9, 1.0], "gain_db": 6, "gradient_accumulation_steps": 2, "max_steps": 8}
    options |= {"dataloader_num_workers": 2}
    whole = FineTuning(parse_arguments(argv(tmp_path / "whole", **options)))
    whole.train_and_report()
    interrupted = FineTuning(parse_arguments(argv(tmp_path / "part", **options)))
    interrupted.trainer.add_callback(InterruptAt(5))
    with pytest.raises(KeyboardInterrupt):
        interrupted.train_and_report()
    resumed = FineTuning(parse_arguments(argv(tmp_path / "part", **options)))
    assert resumed.checkpoint.endswith("checkpoint-4")
    resumed.train_and_report()
    expected, found = (load_file(tmp_path / name / "checkpoint-8" / "model.safetensors") for name in ("whole", "part"))
    for key, weight in expected.items():
        assert torch.equal(found[key], weight), key


def test_stream_collator_decodes_nothing_of_a_batch_that_is_skipped():
    collate = _StreamCollator(lambda rows: {"ids": [row["utterance_id"] for row in rows]})
    assert collate([None, None]) == {}
    assert collate([{"utterance_id": "a"}]) == {"ids": ["a"]}


def test_run_on_a_stream_counts_and_names_what_it_drops(argv, tmp_path, tools, monkeypatch):
    folder = tmp_path / "corpus"
    for split in ("validation", "test"):
        tools["write_split"](folder / split, tools["make_clips"](split, 4, 1))
    clips = tools["make_clips"]("train", 24, 0)
    name, sound, _, speaker = clips[3]
    clips[3] = (name, sound[:100], "abcd", speaker)
    clips[5] = (*clips[5][:2], "", speaker)
    clips[20] = (*clips[20][:2], "zz", speaker)  # behind the first transcripts
    tools["write_split"](folder / "train", clips)
    (folder / "train" / "train7.wav").write_text("no sound")
    monkeypatch.setattr(corpus_module, "STREAM_TRANSCRIPTS", 20)
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **(STREAM | {"dataset": folder, "max_steps": 4}))))
    metrics = run.train_and_report()
    train = next(split for split in metrics["data"] if split["name"] == "train")
    assert train["dropped"] == {
        "unreadable audio": 1,
        "empty transcript": 1,
        "unknown characters": 1,
        "too short": 1,
    }
    assert train["utterances"] == 20
    assert run.trainer.report().dropped["unknown characters"] == ["train20.wav"]
    assert metrics["training"]["epochs"] is None
    assert "z" not in json.loads((tmp_path / "run" / "vocab.json").read_text())


def test_run_on_a_stream_of_which_nothing_can_be_used_raises(argv, tmp_path):
    with pytest.raises(ValueError, match="nothing is left to use; train: kept 0 of 48 utterances"):
        FineTuning(parse_arguments(argv(tmp_path, **(STREAM | {"min_duration_s": 15})))).train_and_report()


TWO_PROCESSES = """
import sys
from hf_speechft.training.finetune import FineTuning, show_progress
from hf_speechft.training.recipes import parse_arguments
show_progress()
run = FineTuning(parse_arguments(sys.argv[2:]))
collate = run.trainer.data_collator
def note(rows):
    with open(f"{sys.argv[1]}/{run.training_arguments.process_index}.txt", "a") as file:
        file.write("".join(row["utterance_id"] + "\\n" for row in rows if row["utterance_id"].startswith("train")))
    return collate(rows)
run.trainer.data_collator = note
run.train_and_report()
"""


@pytest.mark.slow
def test_two_processes_share_a_pass_over_a_stream(argv, tmp_path):
    """3 updates of 2 batches of 8 are a pass over 48 utterances, each learned from once."""
    arguments = argv(tmp_path / "run", **(STREAM | {"max_steps": 3, "eval_steps": 3, "save_steps": 3}))
    (tmp_path / "run.py").write_text(TWO_PROCESSES)
    command = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(tmp_path / "run.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, *command, str(tmp_path), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    names = [(tmp_path / f"{process}.txt").read_text().split() for process in range(2)]
    learned = [one[:24] for one in names]  # behind it is what the loader had ready
    assert sorted(learned[0] + learned[1]) == sorted(f"train{number}.wav" for number in range(48))
