"""Each effect measured: ratios and gains in dB, decay by Schroeder integration, band edges by spectrum."""

import numpy as np
import pytest

from hf_speechft.data.effects import (
    add_noise,
    change_gain,
    decibels,
    reverberate,
    synthetic_room_response,
    telephone_band,
)

RATE_HZ = 16_000


def level_db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


def white(samples, seed=0, amplitude=0.1):
    return (amplitude * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def decay_s(response, rate_hz):
    """RT60 by Schroeder's backward integration, from a line through -5 to -25 dB (T20 of ISO 3382)."""
    energy = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
    curve_db = 10 * np.log10(energy / energy[0])
    used = np.flatnonzero((curve_db <= -5) & (curve_db >= -25))
    slope_db, _ = np.polyfit(used / rate_hz, curve_db[used], 1)
    return -60 / slope_db


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 5.0, 25.0])
@pytest.mark.parametrize("noise_samples", [48_000, 1_000, 100_000])
def test_add_noise_has_the_ratio_that_was_asked_for(waveform, snr_db, noise_samples):
    noisy = add_noise(waveform, white(noise_samples, amplitude=3.0), snr_db)
    assert (noisy.dtype, noisy.shape) == (np.float32, waveform.shape)
    assert level_db(waveform) - level_db(noisy - waveform) == pytest.approx(snr_db, abs=0.01)


def test_add_noise_silence_on_either_side_changes_nothing(waveform):
    silence = np.zeros_like(waveform)
    np.testing.assert_array_equal(add_noise(waveform, silence, 5.0), waveform)
    np.testing.assert_array_equal(add_noise(silence, waveform, 5.0), silence)


@pytest.mark.parametrize("rt60_s", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_synthetic_room_response_decays_in_the_time_that_was_asked_for(rt60_s, rate_hz):
    response = synthetic_room_response(rt60_s, rate_hz, np.random.default_rng(0))
    assert (response.dtype, len(response)) == (np.float32, round(rt60_s * rate_hz))
    assert decay_s(response[1:], rate_hz) == pytest.approx(rt60_s, rel=0.05)


@pytest.mark.parametrize("direct_db", [-3.0, 0.0, 9.0])
def test_synthetic_room_response_has_its_direct_path_first(direct_db):
    response = synthetic_room_response(0.5, RATE_HZ, np.random.default_rng(1), direct_db=direct_db)
    assert response[0] == 1.0 == np.abs(response).max()
    assert np.abs(response).argmax() == 0
    late_power = np.sum(np.square(response[1:], dtype=np.float64))
    assert -10 * np.log10(late_power) == pytest.approx(direct_db, abs=0.01)


@pytest.mark.parametrize("rt60_s", [0.0, -1.0, 1e-5, np.nan, np.inf])
def test_synthetic_room_response_of_no_time_raises(rt60_s):
    with pytest.raises(ValueError, match="rt60_s is .* less than two samples at 16000 Hz; use 0.1 to 2 s"):
        synthetic_room_response(rt60_s, RATE_HZ, np.random.default_rng(0))


def test_reverberate_matches_convolution(waveform):
    response = synthetic_room_response(0.3, RATE_HZ, np.random.default_rng(0))
    expected = np.convolve(waveform, response)[: len(waveform)]
    expected *= np.sqrt(np.mean(waveform**2) / np.mean(expected**2))
    wet = reverberate(waveform, response)
    assert wet.dtype == np.float32
    np.testing.assert_allclose(wet, expected, atol=1e-5)


def test_reverberate_keeps_power_and_the_time_of_the_direct_path(waveform):
    delayed = np.concatenate([np.zeros(500, np.float32), [1.0], 0.001 * white(1_000)]).astype(np.float32)
    wet = reverberate(waveform, delayed)
    assert level_db(wet) == pytest.approx(level_db(waveform), abs=0.01)
    np.testing.assert_allclose(wet, waveform, atol=0.01)


def test_reverberate_silence_stays_silent():
    assert not reverberate(np.zeros(100, np.float32), white(10)).any()


def test_reverberate_by_a_silent_response_raises(waveform):
    with pytest.raises(ValueError, match="the room response is silent; remove its file"):
        reverberate(waveform, np.zeros(10, np.float32))


@pytest.mark.parametrize("gain_db", [-20.0, -6.0, 0.0, 6.0])
def test_change_gain_changes_the_level_by_so_many_db(waveform, gain_db):
    changed = change_gain(waveform, gain_db)
    assert changed.dtype == np.float32
    assert level_db(changed) - level_db(waveform) == pytest.approx(gain_db, abs=0.001)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_telephone_band_keeps_the_band_and_nothing_beyond(rate_hz):
    noise = white(4 * rate_hz)
    filtered = telephone_band(noise, rate_hz)
    assert (filtered.dtype, filtered.shape) == (np.float32, noise.shape)
    frequencies_hz = np.fft.rfftfreq(len(noise), 1 / rate_hz)
    before, after = (np.abs(np.fft.rfft(samples * np.hanning(len(noise)))) ** 2 for samples in (noise, filtered))

    def passed_db(low_hz, high_hz):
        band = (frequencies_hz >= low_hz) & (frequencies_hz < high_hz)
        return 10 * np.log10(after[band].sum() / before[band].sum())

    assert passed_db(305, 3_395) == pytest.approx(0.0, abs=0.1)
    assert passed_db(305, 350) == pytest.approx(0.0, abs=0.2)
    assert passed_db(3_300, 3_395) == pytest.approx(0.0, abs=0.2)
    assert passed_db(0, 265) < -40
    assert passed_db(3_760, rate_hz / 2) < -40


def test_telephone_band_shifts_nothing_in_time():
    tone = np.sin(2 * np.pi * 1_000 * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    middle = slice(2_000, -2_000)
    np.testing.assert_allclose(telephone_band(tone, RATE_HZ)[middle], tone[middle], atol=0.01)


@pytest.mark.parametrize("samples", [1, 2, 7, 8, 17, 1_001])
def test_effects_on_clips_of_any_length_keep_it(samples):
    clip = white(samples)
    for changed in (telephone_band(clip, RATE_HZ), reverberate(clip, white(5)), add_noise(clip, white(3), 5.0)):
        assert changed.shape == clip.shape
        assert np.isfinite(changed).all()


def test_decibels_is_the_factor_of_the_amplitude():
    assert decibels(20.0) == pytest.approx(10.0)
    np.testing.assert_allclose(decibels(np.array([0.0, -40.0])), [1.0, 0.01])
