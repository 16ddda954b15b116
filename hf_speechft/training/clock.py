"""Minutes of training, which a run that is resumed goes on counting."""

import time

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrainingClock(TrainerCallback):
    """Notes in each entry of the log the minutes of training so far, those before a resumption included."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start from the last entry's minutes, which came with the checkpoint."""
        self._start_s = time.monotonic() - 60 * minutes_trained(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Complete the entry that was just made."""
        state.log_history[-1]["minutes"] = (time.monotonic() - self._start_s) / 60


def minutes_trained(state: TrainerState) -> float:
    """Minutes of training, evaluations included, as `TrainingClock` noted them last."""
    return state.log_history[-1].get("minutes", 0.0) if state.log_history else 0.0
