"""Interruptions in the middle of a training, and that they change nothing."""

import multiprocessing
import os
import subprocess

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback


def check_same_weights(one, other):
    """Compare the weights in the folders of two runs bit by bit."""
    expected, found = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert expected.keys() == found.keys()
    assert [name for name, weight in expected.items() if not torch.equal(found[name], weight)] == []


class InterruptAt(TrainerCallback):
    """Stands for Ctrl-C after so many updates."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class TerminateAt(TrainerCallback):
    """SIGTERM to this process and all that it started, as a cluster sends it, in the middle of an update."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            workers = [str(worker.pid) for worker in multiprocessing.active_children()]
            subprocess.run(["kill", "-TERM", *workers, str(os.getpid())], check=True)
