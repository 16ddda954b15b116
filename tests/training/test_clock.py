"""Minutes of training, with a clock that moves when told to."""

import pytest
from transformers import TrainerState

from hf_speechft.training.clock import TrainingClock


class Clock:
    """Stands for `time`; it moves when told to."""

    def __init__(self):
        self.now_s = 100.0

    def monotonic(self):
        return self.now_s


def test_training_clock_counts_the_minutes_before_a_resumption(monkeypatch):
    time = Clock()
    monkeypatch.setattr("hf_speechft.training.clock.time", time)
    state, clock = TrainerState(), TrainingClock()
    clock.on_train_begin(None, state, None)
    time.now_s += 120
    state.log_history.append({"loss": 1.0})
    clock.on_log(None, state, None)
    assert state.log_history == [{"loss": 1.0, "minutes": 2.0}]
    time.now_s += 600  # nobody trains
    resumed = TrainingClock()
    resumed.on_train_begin(None, state, None)
    time.now_s += 60
    state.log_history.append({"loss": 0.5})
    resumed.on_log(None, state, None)
    assert state.log_history[-1]["minutes"] == pytest.approx(3.0)
