import io

import numpy as np
import pytest
import soundfile

from hf_speechft.data import audit_audio
from hf_speechft.data.audio import AudioError
from hf_speechft.data.audit_audio import check_audio, check_decodable, draw_sample, measure_clip
from hf_speechft.data.findings import Flag
from tests.data.audit_corpora import RATE_HZ, sound, utterance


def measure(samples, rate_hz=RATE_HZ, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", **options)
    return measure_clip(utterance(), {"path": None, "bytes": file.getvalue()})


def outcome(samples, check, rate_hz=RATE_HZ):
    """Severity and note of a check of one clip."""
    found = {finding.check: finding for finding in check_audio([measure(samples, rate_hz)], 16_000)}[check]
    return found.severity, found.flags[0].note if found.flags else ""


def test_measure_clip_matches_what_was_made():
    samples = sound(2.0, level=0.5)
    samples[:8_000] = samples[-4_800:] = 0
    measured = measure(samples)
    assert measured.rate_hz == RATE_HZ
    assert measured.peak == pytest.approx(np.abs(samples).max(), abs=1e-4)
    assert measured.dc_offset == pytest.approx(samples.mean(), abs=1e-4)
    assert (measured.start_silence_s, measured.end_silence_s) == pytest.approx((0.5, 0.3), abs=0.021)
    assert measured.silent == pytest.approx(0.8 / 2.0, abs=0.02)
    assert (measured.clipped, measured.is_empty) == (0, False)


def test_check_audio_of_a_clean_clip_is_fine():
    assert {finding.severity for finding in check_audio([measure(sound())], 16_000)} == {"fine"}


@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_check_audio_finds_clipping_at_full_scale_and_scaled_down(scale):
    tone = np.sin(2 * np.pi * 200 * np.arange(RATE_HZ) / RATE_HZ)
    severity, note = outcome(scale * np.clip(2 * tone, -1, 1), "clipping")
    assert severity == "look"
    assert "% of the samples are clipped" in note
    assert outcome(0.999 * tone, "clipping") == ("fine", "")


def test_check_audio_finds_silence():
    assert outcome(np.zeros(RATE_HZ), "silence") == ("problem", "no sound above -50 dB")
    faint = np.random.default_rng(0).standard_normal(RATE_HZ) * 1e-4
    assert outcome(faint, "silence")[0] == "problem"
    late = np.concatenate([np.zeros(round(1.5 * RATE_HZ)), sound(3.0)])
    severity, note = outcome(late, "silence")
    assert severity == "look"
    assert "1.6 s before and 0.1 s behind" in note


def test_check_audio_finds_a_dc_offset():
    assert outcome(sound() + 0.05, "DC offset") == ("look", "the mean is +0.050 of full scale")


def test_check_audio_a_silent_clip_with_an_offset_is_silent():
    assert outcome(np.full(RATE_HZ, 0.2), "silence")[0] == "problem"


def test_check_audio_finds_a_low_sampling_rate():
    assert outcome(sound(), "sampling rate", rate_hz=8_000) == ("problem", "8000 Hz")


def test_measure_clip_of_a_long_recording_reads_its_beginning(monkeypatch):
    monkeypatch.setattr(audit_audio, "MAX_MEASURED_S", 0.5)
    quiet_end = np.concatenate([sound(1.0), np.zeros(10 * RATE_HZ)]).astype(np.float32)
    measured = measure(quiet_end)
    assert measured.end_silence_s == 0
    assert measured.silent < 0.5


def test_measure_clip_shorter_than_a_frame_is_measured():
    assert measure(np.full(10, 0.5)).peak == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (20_000.0, "divide 16-bit ones by 32768")])
def test_measure_clip_of_what_training_refuses_raises(value, message):
    samples = sound()
    samples[100] = value
    with pytest.raises(AudioError, match=message):
        measure(samples, subtype="FLOAT")


def test_draw_sample_is_seeded_and_readable():
    rows = [utterance(row=row, duration_s=np.nan if row % 2 else 1.0) for row in range(100)]
    assert draw_sample(rows, 100, 0) == rows[::2]
    drawn = draw_sample(rows, 10, 0)
    assert drawn == draw_sample(rows, 10, 0) == sorted(drawn, key=lambda row: row.row) != draw_sample(rows, 10, 1)
    assert all(row.is_readable for row in drawn)


def test_check_decodable_names_what_is_broken():
    finding = check_decodable([Flag(utterance(), "cut off")], 3)
    assert finding.severity == "problem"
    assert finding.message.startswith("1 of 3 clips cannot be decoded")
    assert check_decodable([], 3).severity == "fine"
