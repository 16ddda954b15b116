"""What a dry run prints: every fact of the forecast, in lines that fit a terminal."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from hf_speechft.apps.dry_run import show_forecast, summary
from hf_speechft.sharing.card import SplitFacts
from hf_speechft.training.dry_run import RunForecast, StageForecast

STAGE = StageForecast(
    name="training",
    clips=2265,
    duration_s=6120.0,
    updates_per_epoch=284,
    updates=6248,
    updates_done=0,
    largest_clips=8,
    largest_s=7.1,
    padding=0.034,
    update_s=0.416,
    loading=0.12,
    minutes=43.3,
)
FORECAST = RunForecast(
    splits=[
        SplitFacts("train", 755, 2016.0, 59, {"too long": 2, "cannot be aligned": 1}),
        SplitFacts("test", 1300, 3600.0, None, {}),
    ],
    dropped_s={"train": 36.0, "test": 0.0},
    units=["▁", "a", "b"],
    parameters=11_547_805,
    trainable_parameters=1_234,
    stages=[replace(STAGE, name="warm-up", updates=1692, minutes=8.0), STAGE],
    evaluations=23,
    evaluation_minutes=2.2,
    peak_memory_gb=2.13,
    memory_gb=25.2,
    hardware="2 CPU cores, AMD EPYC",
)
EXPECTED = """dry run of runs/an4 on an4: nothing is trained or written

split           clips    hours speakers  dropped
train             755     0.56       59  3 clips, 0.01 h: 2 too long, 1 cannot be aligned
test            1,300     1.00  unknown  nothing

model        minilm, 11,547,805 weights, of which 1,234 learn (method lora)
units        3 and the blank (char): ▁ a b
batches      8 clips; an update takes 2
warm-up      1,692 updates, 284 an epoch of 2,265 clips (1.70 h); 3.4% of a batch is padding; the largest
             holds 8 clips of up to 7.1 s; an update takes 0.42 s, 12% of the work is loading
training     6,248 updates, 284 an epoch of 2,265 clips (1.70 h); 3.4% of a batch is padding; the largest
             holds 8 clips of up to 7.1 s; an update takes 0.42 s, 12% of the work is loading
memory       2.1 of 25.2 GB: the peak of this dry run, which made the largest update twice
time         53.5 min (warm-up 8.0, training 43.3, 23 evaluations 2.2), and besides that reading the data,
             saving and the final decoding
machine      2 CPU cores, AMD EPYC; float32"""


def make_run(**changes):
    training = {"method": "lora", "per_device_train_batch_size": 8, "batch_seconds": None, "batch_clips": None}
    training |= {"gradient_accumulation_steps": 2, "world_size": 1, "precision": "float32"}
    return SimpleNamespace(
        folder="runs/an4",
        checkpoint=changes.pop("checkpoint", None),
        model_arguments=SimpleNamespace(model_name_or_path="minilm", vocabulary="char"),
        data_arguments=SimpleNamespace(dataset="an4"),
        training_arguments=SimpleNamespace(**training | changes),
        trainer=SimpleNamespace(is_world_process_zero=lambda: changes.get("world_size", 1) == 1),
    )


def test_summary_has_every_fact_in_lines_that_fit():
    text = summary(FORECAST, make_run())
    assert text == EXPECTED
    assert max(map(len, text.splitlines())) <= 110


def test_summary_of_many_units_batches_by_seconds_processes_and_a_resumed_run():
    units = [f"##{index}" for index in range(1000)]
    stage = replace(STAGE, updates_done=1000)
    run = make_run(
        batch_seconds=100.0, batch_clips=64, world_size=2, precision="bfloat16", checkpoint="runs/an4/checkpoint-1000"
    )
    text = " ".join(summary(replace(FORECAST, units=units, stages=[stage], memory_gb=None), run).split())
    assert "##59 and 940 more" in text
    assert "batches 100 s and 64 clips at most; an update takes 2 on each of 2 processes" in text
    assert "on an4, going on from runs/an4/checkpoint-1000: nothing" in text
    assert "6,248 updates, of which 1,000 are made, 284 an epoch" in text
    assert "memory 2.1 GB in each of 2 processes: the peak" in text
    assert text.endswith("bfloat16")


@pytest.mark.parametrize(("processes", "is_printed"), [(1, True), (2, False)])
def test_show_forecast_prints_once(monkeypatch, capsys, processes, is_printed):
    monkeypatch.setattr("hf_speechft.apps.dry_run.forecast", lambda run: FORECAST)
    show_forecast(make_run(world_size=processes))
    assert (capsys.readouterr().out == EXPECTED + "\n") == is_printed
