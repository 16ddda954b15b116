"""Speed perturbation: what it does to sound, and which rows it makes."""

import numpy as np
import pytest
import torch
import torchaudio
from datasets import Dataset

from hf_speechft.data.augment import change_speed, check_speed_factors, expand_speeds


def tone(frequency_hz, seconds=1.0, rate_hz=16_000):
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(seconds * rate_hz)) / rate_hz).astype(np.float32)


def peak_hz(waveform, rate_hz=16_000):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), n=4 * rate_hz))
    return spectrum.argmax() * rate_hz / (4 * rate_hz)


@pytest.fixture
def split():
    rows = {
        "audio": ["a.wav", "b.wav"],
        "text": ["one", "two"],
        "speaker_id": ["s", "t"],
        "duration_s": [1.0, 2.2],
        "utterance_id": ["a", "b"],
    }
    return Dataset.from_dict(rows)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_change_speed_divides_duration_and_multiplies_pitch(factor, rate_hz):
    changed = change_speed(tone(1_000, rate_hz=rate_hz), factor, rate_hz)
    assert changed.dtype == np.float32
    assert len(changed) == pytest.approx(rate_hz / factor, abs=1)
    assert peak_hz(changed, rate_hz) == pytest.approx(1_000 * factor, abs=1)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_change_speed_matches_torchaudio(factor):
    waveform = tone(440) + 0.3 * tone(2_000)
    expected, _ = torchaudio.functional.speed(torch.from_numpy(waveform), 16_000, factor)
    changed = change_speed(waveform, factor, 16_000)
    middle = slice(500, len(changed) - 500)  # the two filters differ at the edges
    np.testing.assert_allclose(changed[middle], expected.numpy()[: len(changed)][middle], atol=2e-2)


def test_change_speed_of_one_changes_nothing():
    waveform = tone(440)
    assert change_speed(waveform, 1.0, 16_000) is waveform


def test_expand_speeds_repeats_rows_with_their_new_durations(split):
    expanded = expand_speeds(split, [0.5, 1.0, 1.1])
    assert expanded["speed"][:] == [0.5, 0.5, 1.0, 1.0, 1.1, 1.1]
    assert expanded["duration_s"][:] == pytest.approx([2.0, 4.4, 1.0, 2.2, 1 / 1.1, 2.0])
    assert expanded["utterance_id"][:] == ["a@0.5", "b@0.5", "a", "b", "a@1.1", "b@1.1"]
    assert expanded["text"][:] == ["one", "two"] * 3
    assert expanded["audio"][:] == ["a.wav", "b.wav"] * 3


def test_expand_speeds_durations_are_those_of_the_sound(split):
    row = expand_speeds(split, [1.1])[0]
    assert len(change_speed(tone(440), row["speed"], 16_000)) / 16_000 == pytest.approx(row["duration_s"], abs=1e-4)


@pytest.mark.parametrize("factors", [[], [1.0, 1.0], [0.4], [1.0, 2.1], [0.0], [-1.0], [float("nan")]])
def test_speed_factors_that_make_no_sense_raise(split, factors):
    for check in (check_speed_factors, lambda factors: expand_speeds(split, factors)):
        with pytest.raises(ValueError, match=r"speed factors are \[.*give distinct numbers from 0.5 to 2.0"):
            check(factors)
