"""Steps that a transcript needs; what a run keeps and drops by them is in test_finetune.py."""

import pytest
from datasets import Dataset

from hf_speechft.data.filters import count_ctc_steps
from hf_speechft.training.finetune import FineTuning
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.selection import count_needed_steps, count_steps, count_unspelled, duration_limits


@pytest.mark.parametrize(("text", "steps"), [("ab", 2), ("aa", 3), ("aab b", 6), ("a", 1)])
def test_count_needed_steps_counts_units_and_blanks_between_equals(argv, tmp_path, text, steps):
    run = FineTuning(parse_arguments(argv(tmp_path / "run")))
    assert count_needed_steps(run.processor, text) == steps


@pytest.mark.parametrize("feature_type", ["fbank", "log_mel"])
def test_longest_clip_makes_as_many_steps_as_the_model_has_positions(argv, tmp_path, feature_type):
    run = FineTuning(parse_arguments(argv(tmp_path / "run", feature_type=feature_type)))
    model, extractor = run.trainer.model, run.processor.feature_extractor
    longest_s = duration_limits(run.processor, model)[1]
    steps = model.speechbert.max_steps
    assert count_steps(run.processor, model.config.subsampling, 1.0, longest_s) == steps
    one_more_s = longest_s + model.config.subsampling * extractor.hop_length / extractor.sampling_rate
    assert count_steps(run.processor, model.config.subsampling, 1.0, one_more_s) == steps + 1


def test_count_unspelled_finds_clips_with_fewer_steps_than_characters(argv, tmp_path):
    run = FineTuning(parse_arguments(argv(tmp_path / "run", vocabulary="native")))
    step_s = 0.01 * run.trainer.model.config.subsampling
    transcript = run.splits["train"]["text"][0]
    needed = count_needed_steps(run.processor, transcript)
    spelled = count_ctc_steps(f"▁{transcript}".replace(" ", "▁"))
    assert spelled > needed
    durations_s = [steps * step_s + 0.016 for steps in (needed, spelled - 1, spelled, 2 * spelled)]
    train = Dataset.from_dict({"text": [transcript] * 4, "duration_s": durations_s})
    assert count_unspelled(train, run.processor, run.trainer.model) == 2
