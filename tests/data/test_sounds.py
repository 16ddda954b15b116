"""Folders of noises and rooms: what is found in them, what is drawn, and what cannot be used."""

import numpy as np
import pytest
import soundfile

from hf_speechft.data.audio import load_audio
from hf_speechft.data.sounds import SoundFolder

RATE_HZ = 16_000


@pytest.fixture
def folder(tmp_path):
    """A wav of 3 s, a FLAC of 8 kHz below it, a stereo file, and files that are no audio."""
    generator = np.random.default_rng(0)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    soundfile.write(tmp_path / "a.wav", 0.1 * generator.standard_normal(48_000), RATE_HZ, "PCM_16")
    soundfile.write(tmp_path / "b.WAV", 0.1 * generator.standard_normal((16_000, 2)), RATE_HZ, "PCM_16")
    soundfile.write(tmp_path / "deep" / "er" / "c.flac", 0.1 * generator.standard_normal(4_000), 8_000)
    (tmp_path / "README.md").write_text("noises")
    (tmp_path / "metadata.csv").write_text("file_name\na.wav\n")
    return tmp_path


def test_sound_folder_finds_audio_files_below_it(folder):
    sounds = SoundFolder(folder, RATE_HZ)
    assert len(sounds) == 3
    assert [file.name for file in sounds.files] == ["a.wav", "b.WAV", "c.flac"]
    assert sounds.durations_s == [3.0, 1.0, 0.5]


def test_sound_folder_draws_files_whole(folder):
    sounds = SoundFolder(folder, RATE_HZ)
    drawn = {len(sounds.draw(np.random.default_rng(seed))) for seed in range(20)}
    assert drawn == {48_000, 16_000, 8_000}


@pytest.mark.parametrize("samples", [100, 20_000, 100_000])
def test_sound_folder_excerpts_have_the_length_that_was_asked_for(folder, samples):
    sounds = SoundFolder(folder, RATE_HZ)
    for seed in range(10):
        excerpt = sounds.draw_excerpt(samples, np.random.default_rng(seed))
        assert (excerpt.dtype, excerpt.shape) == (np.float32, (samples,))


def test_sound_folder_excerpt_is_a_part_of_the_file(tmp_path):
    ramp = np.linspace(0, 0.9, 16_000)
    soundfile.write(tmp_path / "ramp.wav", ramp, RATE_HZ, "PCM_16")
    sounds = SoundFolder(tmp_path, RATE_HZ)
    starts = set()
    for seed in range(20):
        excerpt = sounds.draw_excerpt(1_000, np.random.default_rng(seed))
        starts.add(round(float(excerpt[0]), 3))
        np.testing.assert_allclose(np.diff(excerpt), ramp[1], atol=1e-4)
    assert len(starts) == 20
    assert min(starts) < 0.2
    assert max(starts) > 0.7


def test_sound_folder_short_files_are_repeated_from_a_place_within(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.linspace(0, 0.5, 10), RATE_HZ, "PCM_16")
    excerpt = SoundFolder(tmp_path, RATE_HZ).draw_excerpt(25, np.random.default_rng(3))
    np.testing.assert_array_equal(excerpt[:10], excerpt[10:20])
    np.testing.assert_allclose(sorted(excerpt[:10]), np.linspace(0, 0.5, 10), atol=1e-4)


@pytest.mark.parametrize("samples", [1_000, 20_000])
@pytest.mark.parametrize("kept_bytes", [0, 2 * 48_000])
def test_sound_folder_beyond_the_limit_of_memory_gives_the_same(folder, samples, kept_bytes):
    (folder / "deep" / "er" / "c.flac").unlink()  # to resample from the middle gives other samples at the edges
    kept, read = SoundFolder(folder, RATE_HZ), SoundFolder(folder, RATE_HZ, kept_bytes=kept_bytes)
    for seed in range(20):
        pairs = [
            [one.draw_excerpt(samples, np.random.default_rng(seed)) for one in (kept, read)],
            [one.draw(np.random.default_rng(seed)) for one in (kept, read)],
        ]
        for expected, found in pairs:
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_sound_folder_read_at_another_rate_is_in_the_right_place(tmp_path):
    soundfile.write(tmp_path / "ramp.wav", np.linspace(0, 0.9, 8_000), 8_000, "PCM_16")
    kept, read = SoundFolder(tmp_path, RATE_HZ), SoundFolder(tmp_path, RATE_HZ, kept_bytes=0)
    for seed in range(10):
        expected, found = (one.draw_excerpt(1_001, np.random.default_rng(seed)) for one in (kept, read))
        np.testing.assert_allclose(found[100:-100], expected[100:-100], atol=1e-3)


def test_sound_folder_decodes_what_it_keeps_once(folder, monkeypatch):
    calls = []
    monkeypatch.setattr("hf_speechft.data.sounds.load_audio", lambda *a: calls.append(a) or load_audio(*a))
    sounds = SoundFolder(folder, RATE_HZ)
    for seed in range(10):
        sounds.draw_excerpt(100, np.random.default_rng(seed))
    assert len(calls) == 3


def test_sound_folder_absent_raises(tmp_path):
    with pytest.raises(ValueError, match="absent is no folder; give one with audio files"):
        SoundFolder(tmp_path / "absent", RATE_HZ)


def test_sound_folder_without_audio_raises(tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match=r"holds no audio file; put some there, .* \.flac .* \.wav"):
        SoundFolder(tmp_path, RATE_HZ)


@pytest.mark.parametrize("content", [b"", b"not sound at all"])
def test_sound_folder_with_an_unreadable_file_raises_naming_it(folder, content):
    (folder / "deep" / "broken.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"holds a file that cannot be used: .*broken\.wav is .*; or remove it"):
        SoundFolder(folder, RATE_HZ)
