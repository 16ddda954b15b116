"""An interruption in the middle of a training."""

from transformers import TrainerCallback


class InterruptAt(TrainerCallback):
    """Stands for Ctrl-C after so many updates."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt
