"""A dry run: its counts are those of the run, its time is that of all updates, and it leaves nothing behind."""

import shutil

import numpy as np
import pytest
import torch

from hf_speechft.training import dry_run
from hf_speechft.training.blank import BLANK_PENALTIES
from hf_speechft.training.dry_run import Rehearsal, forecast
from hf_speechft.training.finetune import FineTuning, main
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.trainer import SpeechTrainer

DRY = {"dry_run": True, "num_train_epochs": 2}


@pytest.fixture
def make_run(argv, tmp_path):
    def make(**options):
        return FineTuning(parse_arguments(argv(tmp_path / "run", **options)))

    return make


@pytest.mark.parametrize(
    "options",
    [
        {"num_train_epochs": 1.5, "gradient_accumulation_steps": 2, "speed_factors": [0.9, 1.0]},
        {"batch_seconds": 3, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 0.3, "save_steps": 0.3},
        {"max_steps": 8, "eval_strategy": "steps", "save_strategy": "no", "eval_steps": 4}
        | {"load_best_model_at_end": False},
        {"num_train_epochs": 2.5, "clean_epochs": 1, "speed_factors": [0.9, 1.0]},
        {"train_sampling_strategy": "random", "per_device_train_batch_size": 7, "num_train_epochs": 1},
    ],
    ids=["part of an epoch", "seconds", "max_steps", "clean epochs", "random"],
)
def test_forecast_counts_are_those_of_the_run(make_run, options):
    found = forecast(make_run(dry_run=True, **options))
    run = make_run(**options)
    run.trainer.train()
    stage, state = found.stages[0], run.trainer.state
    assert [one.name for one in found.stages] == ["training", "clean epochs"][: 1 + ("clean_epochs" in options)]
    assert sum(one.updates for one in found.stages) == state.max_steps
    assert [one.updates_done for one in found.stages] == [0] * len(found.stages)
    assert stage.updates_per_epoch == run.trainer._updates_per_epoch()
    assert stage.clips == len(run.splits["train"])
    assert stage.duration_s == pytest.approx(sum(run.splits["train"]["duration_s"]))
    assert found.evaluations == sum("eval_wer" in entry for entry in state.log_history) + len(BLANK_PENALTIES)
    assert 0 < found.minutes < 5
    assert found.minutes > stage.minutes > 0
    assert 0 < stage.loading < 1
    assert found.peak_memory_gb < found.memory_gb


def test_forecast_says_what_is_used_and_dropped(make_run):
    run = make_run(**DRY, max_duration_s=0.7)
    found = forecast(run)
    assert [split.name for split in found.splits] == ["train", "validation", "test"]
    train = found.splits[0]
    dropped = train.dropped["too long"]
    assert train.utterances + dropped == 48
    assert train.duration_s == pytest.approx(sum(run.splits["train"]["duration_s"]))
    assert found.dropped_s["train"] > 0.7 * dropped
    assert found.dropped_s["validation"] == 0
    assert sorted(found.units) == ["a", "b", "c", "d", "▁"]
    assert found.parameters == found.trainable_parameters == run.trainer.model.num_parameters()


def measure_as(computing, loading):
    """Stands for the measurement: times that are known functions of the padded seconds of an update."""

    def measure(self):
        durations_s = np.array(self.train_dataset["duration_s"])
        padded_s = np.array([len(batch) * durations_s[batch].max() for batch in self.batches])
        padded_s = padded_s.reshape(-1, self.accumulated).sum(axis=1)
        return computing(padded_s), loading(padded_s)

    return measure


@pytest.mark.parametrize(
    ("workers", "expected"), [(0, lambda s: 0.6 + 2.1 * s), (1, lambda s: np.maximum(0.5 + s, 0.1 + 1.1 * s))]
)
def test_forecast_time_is_the_sum_over_all_updates(make_run, monkeypatch, workers, expected):
    monkeypatch.setattr(Rehearsal, "measure", measure_as(lambda s: 0.5 + s, lambda s: 0.1 + 1.1 * s))
    options = {"max_steps": 20, "gradient_accumulation_steps": 2, "speed_factors": [0.9, 1.0, 1.1]}
    run = make_run(dry_run=True, dataloader_num_workers=workers, **options)
    durations_s = np.array(run.splits["train"]["duration_s"])
    order = list(run.trainer._get_train_sampler())
    batches = [order[start : start + 8] for start in range(0, 144, 8)]
    padded_s = np.array([len(batch) * durations_s[batch].max() for batch in batches]).reshape(9, 2).sum(axis=1)
    (stage,) = forecast(run).stages
    assert 60 * stage.minutes == pytest.approx(2 * expected(padded_s).sum() + expected(padded_s)[:2].sum())
    assert stage.update_s == pytest.approx(expected(padded_s).mean())
    assert stage.padding == pytest.approx(1 - durations_s.sum() / padded_s.sum())


def test_extend_line_of_updates_of_one_length_is_their_mean():
    found = dry_run._extend_line([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], np.array([2.0, 2.0]))
    np.testing.assert_allclose(found, [2.0, 2.0])


def test_rehearsal_makes_the_largest_update_twice_and_then_some_from_long_to_short(make_run, monkeypatch):
    run = make_run(**DRY, speed_factors=[0.9, 1.0, 1.1])
    heard = []
    collate = run.trainer.data_collator
    run.trainer.data_collator = lambda rows: heard.append([row["duration_s"] for row in rows]) or collate(rows)
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args, **options: steps.append(1) or step(*args, **options))
    (stage,) = forecast(run).stages
    train = heard[:10]
    padded_s = [len(batch) * max(batch) for batch in train]
    assert train[0] == train[1]
    assert max(train[0]) == max(run.splits["train"]["duration_s"]) == stage.largest_s
    assert padded_s[2:] == sorted(padded_s[2:], reverse=True)
    assert padded_s[9] < 0.6 * padded_s[2]
    assert len(steps) == 10


@pytest.mark.parametrize("options", [{}, {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_on_start": True}])
def test_forecast_has_the_stage_on_synthetic_speech(make_run, tmp_path, options):
    """The stage has no split to evaluate, whatever the schedule needs."""
    pytest.importorskip("espeakng_loader", reason="the demo extra (espeakng-loader) is not installed")
    warmup = {"warmup_corpus": "train", "warmup_utterances": 12, "warmup_epochs": 3, "cache_dir": tmp_path / "cache"}
    run = make_run(**DRY, **warmup, **options)
    found = forecast(run)
    first, second = found.stages
    assert (first.name, first.clips, first.updates_per_epoch, first.updates) == ("warm-up", 12, 2, 6)
    assert (second.name, second.clips, second.updates) == ("training", 48, 12)
    assert found.minutes == pytest.approx(first.minutes + second.minutes + found.evaluation_minutes)


def test_forecast_of_an_interrupted_run_is_of_what_is_left(make_run, argv, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    evaluate, options = SpeechTrainer.evaluate, {"num_train_epochs": 3}

    def evaluate_twice(trainer, **asked):
        if trainer.state.global_step == 12:
            raise Killed
        return evaluate(trainer, **asked)

    monkeypatch.setattr(SpeechTrainer, "evaluate", evaluate_twice)
    with pytest.raises(Killed):
        main(argv(tmp_path / "run", **options))
    monkeypatch.undo()
    monkeypatch.setattr(Rehearsal, "measure", measure_as(np.ones_like, np.zeros_like))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    found = forecast(make_run(dry_run=True, **options))
    (stage,) = found.stages
    assert (stage.updates, stage.updates_done) == (18, 6)
    assert 60 * stage.minutes == pytest.approx(12)
    assert found.evaluations == 2 + len(BLANK_PENALTIES)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_main_dry_run_prints_to_stdout_and_writes_nothing(argv, tmp_path, corpus, capsys):
    folder = tmp_path / "corpus"
    shutil.copytree(corpus, folder)
    main(argv(tmp_path / "run", **DRY, dataset=folder, disable_tqdm=False))
    printed, progress = capsys.readouterr()
    assert printed.startswith(f"dry run of {tmp_path / 'run'} on {folder}: nothing is trained or written\n\nsplit ")
    for label in (
        "train ",
        "validation ",
        "model ",
        "units ",
        "batches ",
        "training ",
        "memory ",
        "time ",
        "machine ",
    ):
        assert f"\n{label}" in printed
    assert "12 updates, 6 an epoch of 48 clips" in " ".join(printed.split())
    assert "train_runtime" not in printed + progress
    assert "Measuring updates" in progress
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


def test_main_dry_run_out_of_memory_says_what_the_run_would_do(argv, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(SpeechTrainer, "compute_loss", fail)
    message = "memory ran out with 8 clips in a batch; --per_device_train_batch_size 4 --gradient_accumulation_steps 2"
    with pytest.raises(SystemExit, match=f"error: {message} takes less"):
        main(argv(tmp_path / "run", **DRY))
    assert not (tmp_path / "run").exists()


def test_main_dry_run_of_a_finished_run_is_refused_as_the_run_would_be(argv, tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(SystemExit, match="holds a finished run; choose another --output_dir"):
        main(argv(tmp_path, **DRY))
