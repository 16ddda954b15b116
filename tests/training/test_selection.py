"""Steps that a transcript needs; what a run keeps and drops by them is in test_finetune.py."""

import pytest

from hf_speechft.training.finetune import FineTuning
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.selection import count_needed_steps


@pytest.mark.parametrize(("text", "steps"), [("ab", 2), ("aa", 3), ("aab b", 6), ("a", 1)])
def test_count_needed_steps_counts_units_and_blanks_between_equals(argv, tmp_path, text, steps):
    run = FineTuning(parse_arguments(argv(tmp_path / "run")))
    assert count_needed_steps(run.processor, text) == steps
