"""Out of memory: a run with the batches cut is the run that was asked for them, from the start or a checkpoint on."""

import json
import logging
import weakref

import numpy as np
import pytest
import torch

from hf_speechft.training.arguments import SpeechTrainingArguments
from hf_speechft.training.finetune import FineTuning, main
from hf_speechft.training.memory import (
    BatchTooLargeError,
    describe_batches,
    halve_evaluation,
    is_out_of_memory,
    naming_batch,
    split_batches,
)
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.trainer import SpeechTrainer
from tests.training.interruption import check_same_weights

SHORT = {"num_train_epochs": 2, "beam_width": 1, "learning_rate": 1e-3}


class Memory:
    """Runs out where a batch has more frames than the limit, as a GPU's would; counts the clips of each batch."""

    def __init__(self, monkeypatch):
        self.limit_frames, self.from_step, self.clips = float("inf"), 0, []
        self.too_large, self.freed = [], []  # models that were given up, and whether each was gone in the next run
        compute_loss = SpeechTrainer.compute_loss

        def within_limit(trainer, model, inputs, **kwargs):
            clips, frames, _ = inputs["input_features"].shape
            self.clips.append(clips)
            self.freed += [model() is None for model in self.too_large]
            self.too_large.clear()
            if trainer.state.global_step >= self.from_step and clips * frames > self.limit_frames:
                self.too_large.append(weakref.ref(trainer.model))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return compute_loss(trainer, model, inputs, **kwargs)

        monkeypatch.setattr(SpeechTrainer, "compute_loss", within_limit)


@pytest.fixture
def memory(monkeypatch):
    return Memory(monkeypatch)


HALVES = [
    ({"per_device_train_batch_size": 8}, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, 500),
    (
        {"batch_seconds": 6, "batch_clips": 9, "gradient_accumulation_steps": 2},
        {"batch_seconds": 3, "batch_clips": 4, "gradient_accumulation_steps": 4},
        320,
    ),
]


@pytest.mark.parametrize(("asked", "halved", "limit_frames"), HALVES, ids=["clips", "seconds"])
def test_run_out_of_memory_is_the_run_with_halved_batches(argv, tmp_path, memory, caplog, asked, halved, limit_frames):
    main(argv(tmp_path / "halved", **SHORT | halved, max_steps=3))
    memory.limit_frames = limit_frames
    with caplog.at_level(logging.WARNING, logger="hf_speechft"):
        main(argv(tmp_path / "run", **SHORT | asked, max_steps=3))
    check_same_weights(tmp_path / "halved", tmp_path / "run")
    before, after = (" ".join(f"--{name} {value}" for name, value in one.items()) for one in (asked, halved))
    before += "" if "--gradient" in before else " --gradient_accumulation_steps 1"
    said = f"memory ran out with {before}; starting again from the last checkpoint with {after}"
    assert [message for message in caplog.messages if message.startswith("memory")] == [said]
    recorded = json.loads((tmp_path / "run" / "arguments.json").read_text())
    assert recorded["batch_parts"] == 2
    assert {name: recorded[name] for name in asked} == asked


def test_run_out_of_memory_after_a_checkpoint_goes_on_from_it(argv, tmp_path, memory):
    """Where the folder is to be overwritten too: the checkpoint is this run's own."""
    halved = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    main(argv(tmp_path / "whole", **SHORT))
    options = {"resume_from_checkpoint": tmp_path / "whole" / "checkpoint-6"}
    main(argv(tmp_path / "resumed", **SHORT | halved | options))
    memory.clips.clear()
    memory.limit_frames, memory.from_step = 500, 6
    main(argv(tmp_path / "run", **SHORT, overwrite_output_dir=True))
    check_same_weights(tmp_path / "resumed", tmp_path / "run")
    assert memory.freed == [True]
    assert memory.clips == [8] * 7 + [4] * 12


def test_run_out_of_memory_that_is_killed_goes_on_with_the_smaller_batches(argv, tmp_path, memory, monkeypatch):
    memory.limit_frames = 200
    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "_decode_test", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            main(argv(tmp_path, **SHORT, max_steps=2))
    assert memory.clips == [8, 4, *[2] * 8]

    def start(**options):
        run = FineTuning(parse_arguments(argv(tmp_path, **SHORT, max_steps=2, **options)))
        args = run.trainer.args
        return run.checkpoint is not None, args.per_device_train_batch_size, args.gradient_accumulation_steps

    assert start() == (True, 2, 4)
    assert start(overwrite_output_dir=True) == (False, 8, 1)


def test_run_whose_single_clips_do_not_fit_says_what_to_do(argv, tmp_path, memory):
    memory.limit_frames = 10
    message = (
        r"error: memory ran out with a single clip in a batch, .*checkpointing true, --bf16 true, a smaller --max_"
    )
    with pytest.raises(SystemExit, match=message):
        main(argv(tmp_path, **SHORT))
    assert memory.clips == [8, 4, 2, 1]


def test_main_out_of_memory_elsewhere_is_one_message(argv, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(SpeechTrainer, "create_optimizer", fail)
    with pytest.raises(SystemExit, match="error: memory ran out: CUDA out of memory.*; what takes less memory: "):
        main(argv(tmp_path, **SHORT))


def test_is_out_of_memory_knows_what_torch_and_numpy_raise():
    for allocate in (lambda: torch.empty(2**50, dtype=torch.uint8), lambda: np.empty(2**50, dtype=np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as raised:
            allocate()
        assert is_out_of_memory(raised.value)
    assert not is_out_of_memory(RuntimeError("size mismatch"))


def test_naming_batch_lets_other_errors_pass(tmp_path):
    with pytest.raises(RuntimeError, match="size mismatch"), naming_batch(arguments(tmp_path), 8):
        raise RuntimeError("size mismatch")


def test_naming_batch_leaves_the_trainers_own_search_alone(tmp_path):
    search = arguments(tmp_path, auto_find_batch_size=True)
    with pytest.raises(torch.OutOfMemoryError), naming_batch(search, 8):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def arguments(folder, **options):
    return SpeechTrainingArguments(output_dir=str(folder), bf16=False, **options)


def run_out(training, clips):
    with pytest.raises(BatchTooLargeError) as raised, naming_batch(training, clips):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return raised.value


@pytest.mark.parametrize(("size", "parts"), [(8, 2), (6, 2), (9, 3), (7, 7), (1, None)])
def test_batch_is_cut_into_the_fewest_equal_parts(tmp_path, size, parts):
    training = arguments(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=3)
    assert run_out(training, size).parts == parts
    if parts:
        smaller = split_batches(training, parts)
        assert smaller.per_device_train_batch_size * parts == size
        assert smaller.gradient_accumulation_steps == 3 * parts
    assert training.per_device_train_batch_size == size


def test_split_batches_goes_on_saving_between_evaluations(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 5, "per_device_train_batch_size": 8}
    training = SpeechTrainingArguments(output_dir=str(tmp_path), **options)
    for parts in (2, 4):
        assert split_batches(training, parts).saves_between_evaluations
    assert split_batches(split_batches(training, 2), 2).saves_between_evaluations
    assert not split_batches(SpeechTrainingArguments(output_dir=str(tmp_path)), 2).saves_between_evaluations


def test_batch_on_several_processes_is_not_cut_but_the_message_says_how(tmp_path, monkeypatch):
    monkeypatch.setattr(SpeechTrainingArguments, "world_size", 2)
    error = run_out(arguments(tmp_path), 8)
    assert error.parts is None
    assert "8 clips in a batch on one of 2 processes" in str(error)
    assert "--per_device_train_batch_size 4 --gradient_accumulation_steps 2 takes less" in str(error)


def test_describe_batches_names_what_was_asked_for(tmp_path):
    seconds = arguments(tmp_path, batch_seconds=2.5, gradient_accumulation_steps=2)
    assert describe_batches(seconds) == "--batch_seconds 2.5 --gradient_accumulation_steps 2"


@pytest.mark.parametrize("workers", [{}, {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}])
def test_evaluation_out_of_memory_gives_the_same_with_half_the_batch(argv, tmp_path, monkeypatch, caplog, workers):
    run = FineTuning(parse_arguments(argv(tmp_path, per_device_eval_batch_size=8, **workers)))
    expected = run.trainer.evaluate()
    predict = SpeechTrainer.prediction_step
    sizes = []

    def within_limit(trainer, model, inputs, *args, **kwargs):
        sizes.append(len(inputs["labels"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SpeechTrainer, "prediction_step", within_limit)
    found = run.trainer.evaluate()
    assert sizes == [8, 4, 2, 2, 2, 2]
    run.trainer.evaluate()
    assert sizes[6:] == [2, 2, 2, 2]
    for name in ("eval_loss", "eval_wer", "eval_cer"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    assert "memory ran out in an evaluation of 4 clips at a time; going on with 2" in caplog.messages
    assert len(run.trainer.predict(run.splits["test"]).predictions) == 8


def test_halve_evaluation_of_single_clips_or_on_several_processes_raises(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"--per_device_eval_batch_size 1; what takes less memory: "):
        halve_evaluation(arguments(tmp_path, per_device_eval_batch_size=1))
    monkeypatch.setattr(SpeechTrainingArguments, "world_size", 2)
    with pytest.raises(ValueError, match="--per_device_eval_batch_size 4 gives the same results with less"):
        halve_evaluation(arguments(tmp_path, per_device_eval_batch_size=8))
