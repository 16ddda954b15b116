"""Augmentation: what it does to sound, which rows it makes, and that only seed, epoch and id decide what is drawn."""

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from datasets import Audio, Dataset

from hf_speechft.data.audio import load_audio
from hf_speechft.data.augment import (
    Augmentation,
    add_silence,
    change_speed,
    check_speed_factors,
    draw_generator,
    expand_speeds,
    mark_augmented,
)
from hf_speechft.data.sounds import SoundFolder


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


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noises")
    generator = np.random.default_rng(0)
    for index, seconds in enumerate((1, 6)):
        noise = 0.1 * generator.standard_normal(16_000 * seconds)
        soundfile.write(folder / f"{index}.wav", noise, 16_000, "PCM_16")
    return SoundFolder(folder, 16_000)


@pytest.fixture
def corpus():
    """A split as `load_corpus` gives it."""
    rows = {
        "audio": ["a.wav", "b.wav", "c.wav", "d.wav"],
        "text": ["one", "two", "three", "four"],
        "speaker_id": ["s", "t", "s", "t"],
        "duration_s": [1.0, 2.2, 0.7, 3.0],
        "utterance_id": ["a", "b", "c", "d"],
    }
    return Dataset.from_dict(rows).cast_column("audio", Audio(decode=False))


def level_db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


def everything(noises):
    return Augmentation(noises, 1.0, (5.0, 25.0), 1.0, None, 6.0, 1.0)


def test_augmentation_that_is_off_changes_nothing(waveform):
    off = Augmentation()
    assert not off.does_something
    np.testing.assert_array_equal(off(waveform, 16_000, np.random.default_rng(0)), waveform)


def test_augmentation_noise_has_a_ratio_within_the_range(noises, waveform):
    augment = Augmentation(noises, 1.0, (5.0, 25.0))
    quiet = 0.1 * waveform
    ratios = [
        level_db(quiet) - level_db(augment(quiet, 16_000, np.random.default_rng(seed)) - quiet) for seed in range(30)
    ]
    assert 5 - 0.01 <= min(ratios) < 10
    assert 20 < max(ratios) <= 25 + 0.01


def test_augmentation_reaches_about_the_share_that_was_asked_for(noises, waveform):
    augment = Augmentation(noises, 0.3)
    changed = sum(
        not np.array_equal(augment(waveform, 16_000, np.random.default_rng(n)), waveform) for n in range(200)
    )
    assert 40 < changed < 80


def test_augmentation_gain_is_within_its_range(waveform):
    quiet = 0.1 * waveform
    augment = Augmentation(gain_db=6.0)
    gains = [level_db(augment(quiet, 16_000, np.random.default_rng(n))) - level_db(quiet) for n in range(30)]
    assert -6.01 < min(gains) < -3
    assert 3 < max(gains) < 6.01


def test_augmentation_never_exceeds_full_scale(noises, waveform):
    loud = waveform / np.abs(waveform).max()
    augment = Augmentation(noises, 1.0, (-5.0, 0.0), 0.5, None, 12.0)
    for seed in range(10):
        assert np.abs(augment(loud, 16_000, np.random.default_rng(seed))).max() <= 1.0


def test_augmentation_uses_recorded_rooms(tmp_path, waveform):
    soundfile.write(tmp_path / "room.wav", np.array([0.0, 0.5, 0.0]), 16_000, "PCM_16")  # no reverberation at all
    augment = Augmentation(reverb_prob=1.0, rooms=SoundFolder(tmp_path, 16_000))
    np.testing.assert_allclose(augment(waveform, 16_000, np.random.default_rng(0)), waveform, atol=1e-5)


@pytest.mark.parametrize("with_noise", [False, True])
def test_augmentation_makes_background_sound_of_silence(noises, with_noise):
    augment = Augmentation(noises if with_noise else None, 1.0)
    clips = [augment(np.zeros(16_000, np.float32), 16_000, np.random.default_rng(seed)) for seed in range(20)]
    levels = [level_db(clip) for clip in clips]
    low_db, high_db = (-51, -19) if with_noise else (-81, -49)
    assert all(clip.dtype == np.float32 for clip in clips)
    assert low_db < min(levels) < max(levels) < high_db


def test_augmentation_depends_on_seed_epoch_and_id_only(noises, waveform):
    augment = everything(noises)

    def augmented(seed, epoch, name):
        return augment(waveform, 16_000, draw_generator(seed, epoch, name))

    expected = augmented(1, 2, "a")
    np.testing.assert_array_equal(augmented(1, 2, "a"), expected)
    for other in ((2, 2, "a"), (1, 3, "a"), (1, 2, "b"), (2, 1, "a")):
        assert not np.array_equal(augmented(*other), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_prob": 1.5}, "noise_prob is 1.5; it needs to be from 0 to 1"),
        ({"reverb_prob": -0.1}, "reverb_prob is -0.1; it needs to be from 0 to 1"),
        ({"telephone_prob": float("nan")}, "telephone_prob is nan; it needs to be from 0 to 1"),
        ({"silence_share": 2.0}, "silence_share is 2.0; it needs to be from 0 to 1"),
        ({"noise_snr_db": (25.0, 5.0)}, "noise_snr_db is 25 5; give two numbers in dB, the lowest first"),
        ({"noise_snr_db": (5.0,)}, "noise_snr_db is 5; give two numbers in dB"),
        ({"noise_snr_db": (5.0, float("inf"))}, "noise_snr_db is 5 inf; give two numbers in dB"),
        ({"gain_db": -3.0}, "gain_db is -3.0; give a number from 0 up, such as 6 for -6 to"),
    ],
)
def test_augmentation_out_of_range_raises(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_add_silence_adds_rows_that_are_silent_and_as_long_as_the_others(corpus):
    extended = add_silence(corpus, 0.5, seed=0)
    assert extended.column_names == corpus.column_names
    assert len(extended) == 6
    assert extended["utterance_id"][-2:] == ["silence#0", "silence#1"]
    for row in extended.select([4, 5]):
        assert (row["text"], row["speaker_id"]) == ("", "")
        assert row["duration_s"] in corpus["duration_s"][:]
        sound = load_audio(row["audio"], 8_000)
        assert len(sound) / 8_000 == pytest.approx(row["duration_s"], abs=1e-3)
        assert not sound.any()
        assert len(row["audio"]["bytes"]) < 2_000


def test_add_silence_is_the_same_for_the_same_seed(corpus):
    first, again = (add_silence(corpus, 1.0, seed=3)["duration_s"][:] for _ in range(2))
    assert first == again
    assert any(add_silence(corpus, 1.0, seed=seed)["duration_s"][:] != first for seed in range(4, 8))


def test_add_silence_follows_speeds(corpus):
    extended = add_silence(expand_speeds(corpus, [0.9, 1.1]), 0.25, seed=0)
    assert len(extended) == 10
    assert extended["speed"][-2:] == [1.0, 1.0]


def test_add_silence_belongs_to_no_class(corpus):
    accents = [f"accent {index % 2}" for index in range(len(corpus))]
    extended = add_silence(corpus.add_column("accent", accents), 0.5, seed=0)
    assert extended["accent"][:] == accents + [""] * (len(extended) - len(corpus))


def test_add_silence_of_no_share_changes_nothing(corpus):
    assert add_silence(corpus, 0.0, seed=0) is corpus
    with pytest.raises(ValueError, match="the share of silence is 1.5; it needs to be from 0 to 1"):
        add_silence(corpus, 1.5, seed=0)


def test_mark_augmented_marks_every_row(corpus):
    assert mark_augmented(corpus)["augmented"][:] == [True] * 4
