"""Corpora of any text spoken by espeak-ng: who says what, and that the same seed gives the same bytes."""

import pytest

pytest.importorskip("espeakng_loader", reason="the demo extra (espeakng-loader) is not installed")

from hf_speechft.data.audio import load_audio
from hf_speechft.data.spoken import SPEAKERS, load_spoken, plan_lines

LINES = ["guten morgen", "zwei drei", "auf wiedersehen"]


def test_plan_lines_takes_lines_in_turn_by_training_voices():
    plan = plan_lines(LINES, 7, seed=1)
    assert [one.text for one in plan] == [*LINES, *LINES, LINES[0]]
    assert {one.split for one in plan} == {"train"}
    assert {one.voice for one in plan} <= set(SPEAKERS["train"])
    assert (plan[0].voice, plan[0].pitch, plan[0].snr_db) != (plan[3].voice, plan[3].pitch, plan[3].snr_db)


def test_plan_lines_seed_decides_what_is_drawn():
    assert plan_lines(LINES, 5, seed=1) == plan_lines(LINES, 5, seed=1)
    assert plan_lines(LINES, 5, seed=1) != plan_lines(LINES, 5, seed=2)


def test_plan_lines_language_is_that_of_all_voices():
    assert all(one.voice.startswith("de+") for one in plan_lines(LINES, 20, seed=0, language="de"))


def test_plan_lines_without_a_line_raises():
    with pytest.raises(ValueError, match="there is no line to speak; give a text with one sentence a line"):
        plan_lines([], 5, seed=0)


def test_load_spoken_speaks_the_plan_and_keeps_it(tmp_path):
    plan = plan_lines(LINES, 4, seed=3, language="de")
    spoken = load_spoken(plan, name="warm-up", seed=3, cache_dir=tmp_path)
    assert {split: len(rows) for split, rows in spoken.items()} == {"train": 4, "validation": 0, "test": 0}
    train = spoken["train"]
    assert train["text"][:] == [*LINES, LINES[0]]
    assert train["speaker_id"][:] == [one.voice for one in plan]
    for row in train:
        assert len(load_audio(row["audio"], 16_000)) == pytest.approx(16_000 * row["duration_s"])
    again = load_spoken(plan, name="warm-up", seed=3, cache_dir=tmp_path)
    assert again["train"][:] == train[:]
    assert len(list((tmp_path / "hf_speechft_warm-up").iterdir())) == 1
