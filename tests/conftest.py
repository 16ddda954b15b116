"""Fixtures and skips shared by all tests. The environment is set before any Hugging Face library is imported."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tests fork: data loaders, accelerate launch
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # A core for each process of pytest-xdist: threads of torch that wait for a core spin, and slow all others down.
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(_cores)]})

from pathlib import Path

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one is not a failure
hypothesis.settings.load_profile("any machine")

SPEECH_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    without_speech = pytest.mark.skip(reason=f"needs the recordings in ../shared/data; {SPEECH_FOLDER} is absent")
    without_gpu = pytest.mark.skip(reason="needs a CUDA device; torch.cuda.is_available() is False")
    for item in items:
        if item.get_closest_marker("speech") and not SPEECH_FOLDER.is_dir():
            item.add_marker(without_speech)
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(without_gpu)


def _has_cuda():
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def speech_folder():
    """The folder with real recordings; for tests that are marked `speech`."""
    return SPEECH_FOLDER


@pytest.fixture
def waveform():
    """3 s of seeded sound at 16 kHz, float32 in [-1, 1]: tones whose loudness follows slow noise, as in syllables."""
    rng = np.random.default_rng(0)
    time_s = np.arange(48_000) / 16_000
    frequencies_hz = np.array([140.0, 280.0, 690.0, 1_180.0, 2_450.0, 5_200.0])
    # One loudness every 100 ms for each tone, linearly interpolated.
    knots_s = np.linspace(0.0, 3.0, 31)
    loudness = np.stack([np.interp(time_s, knots_s, rng.random(31) ** 2) for _ in frequencies_hz])
    tones = np.sin(2 * np.pi * frequencies_hz[:, None] * time_s + rng.uniform(0, 2 * np.pi, (6, 1)))
    sound = (loudness * tones).sum(axis=0) + 0.01 * rng.standard_normal(48_000)
    return (0.7 * sound / np.abs(sound).max()).astype(np.float32)
