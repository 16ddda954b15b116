"""Sources, mixing and resampling; the file formats themselves are in test_decoders.py."""

import io
import pickle
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from hf_speechft.data.audio import AudioError, audio_duration_s, load_audio, stream_audio

RATE_HZ = 16_000


@pytest.fixture
def tone():
    """1.5 s at 16 kHz: a 440 Hz tone in light noise, exact in 16 bits."""
    rng = np.random.default_rng(3)
    samples = 0.4 * np.sin(2 * np.pi * 440 * np.arange(24_000) / RATE_HZ) + 0.01 * rng.standard_normal(24_000)
    return np.round(samples * 32_768).astype(np.int16)


@pytest.fixture
def tone_file(tmp_path, tone):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone, RATE_HZ)
    return path


def encoded(samples, rate_hz=RATE_HZ, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, **({"format": "WAV"} | options))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "dict_bytes", "dict_path", "array", "dict_array", "tensor"])
def test_load_audio_any_kind_of_source_gives_the_same_samples(kind, tone_file, tone):
    content = tone_file.read_bytes()
    source = {
        "path": tone_file,
        "str": str(tone_file),
        "bytes": content,
        "dict_bytes": {"bytes": content, "path": "gone.wav"},
        "dict_path": {"bytes": None, "path": str(tone_file)},
        "array": tone,
        "dict_array": {"array": tone, "sampling_rate": RATE_HZ},
        "tensor": torch.from_numpy(tone),
    }[kind]
    loaded = load_audio(source, RATE_HZ)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, tone / np.float32(32_768))


@pytest.mark.parametrize(
    ("dtype", "full_scale", "offset"),
    [("int8", 2**7, 0), ("uint8", 2**7, 2**7), ("int16", 2**15, 0), ("int32", 2**31, 0), ("float64", 1, 0)],
)
def test_load_audio_scales_every_sample_type_to_one(dtype, full_scale, offset):
    wanted = np.array([-1.0, -0.5, 0.0, 0.5])
    array = (wanted * full_scale + offset).astype(dtype)
    np.testing.assert_allclose(load_audio(array, RATE_HZ), wanted, atol=1e-7)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "file"])
def test_load_audio_stereo_is_averaged(layout, tone):
    left = tone / 32_768
    right = np.zeros_like(left)
    stereo = np.stack([left, right])  # (channels, samples)
    source = {"channels_first": stereo, "channels_last": stereo.T, "file": encoded(stereo.T, subtype="FLOAT")}[layout]
    np.testing.assert_allclose(load_audio(source, RATE_HZ), left / 2, atol=1e-6)


@pytest.mark.parametrize("source_rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_load_audio_other_rate_matches_torchaudio(source_rate_hz):
    time_s = np.arange(source_rate_hz) / source_rate_hz
    tone = (0.5 * np.sin(2 * np.pi * 300 * time_s) + 0.2 * np.sin(2 * np.pi * 1_000 * time_s)).astype(np.float32)
    loaded = load_audio(encoded(tone, source_rate_hz, subtype="FLOAT"), RATE_HZ)
    reference = torchaudio.functional.resample(
        torch.from_numpy(tone), source_rate_hz, RATE_HZ, lowpass_filter_width=64
    ).numpy()
    assert abs(len(loaded) - len(reference)) <= 1
    middle = slice(1_000, 15_000)  # the filters differ at the edges
    np.testing.assert_allclose(loaded[middle], reference[middle], atol=2e-3)


def test_load_audio_bare_array_at_another_rate_is_resampled():
    array = np.zeros(8_000, np.float32)
    assert len(load_audio(array, RATE_HZ, source_rate_hz=8_000)) == RATE_HZ
    assert len(load_audio({"array": array, "sampling_rate": 8_000}, RATE_HZ)) == RATE_HZ


def test_load_audio_square_wave_stays_within_full_scale_after_resampling():
    square = np.where(np.arange(8_000) // 20 % 2, 1.0, -1.0).astype(np.float32)
    assert np.abs(load_audio(square, RATE_HZ, source_rate_hz=8_000)).max() <= 1.0


def test_load_audio_all_zero_is_silence_not_an_error():
    assert not load_audio(encoded(np.zeros(800)), RATE_HZ).any()


def test_load_audio_bfloat16_tensor_is_read():
    assert load_audio(torch.full((400,), 0.5, dtype=torch.bfloat16), RATE_HZ)[0] == 0.5


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", r"audio bytes are empty \(0 bytes\)"),
        ({"path": "b.wav", "bytes": b""}, "b.wav is empty"),
        ({"path": None, "bytes": None}, "keys path, bytes; it needs a path, bytes, or array"),
        ({}, "keys none"),
        (np.zeros(0, np.float32), "holds no samples"),
        (np.zeros((2, 0), np.float32), "holds no samples"),
        (np.array([0.0, np.nan, np.inf]), "2 samples that are NaN or infinite"),
        (
            np.array([0.0, 20_000.0, -3.0]),
            "reaches 20000; samples kept as floats lie in .* divide 16-bit ones by 32768",
        ),
        (np.zeros((2, 3, 4)), "3 dimensions"),
        (np.zeros((40, 50)), "no side of at most 8 channels"),
        (np.array(["a"]), "holds <U1"),
        ([[0.1], [0.2, 0.3]], "not an array of numbers"),
        (np.array([True, False]), "holds bool"),
        ([0, 16_384, -16_384], "holds int64, .* full scale is unknown; convert it to int16 or int32"),
    ],
)
def test_load_audio_unusable_source_raises(source, message):
    with pytest.raises(AudioError, match=message):
        load_audio(source, RATE_HZ)


def test_load_audio_nan_in_a_file_raises_naming_it(tmp_path, tone):
    path = tmp_path / "broken.wav"
    samples = tone / 32_768
    samples[7] = np.nan
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"broken\.wav has 1 samples that are NaN or infinite"):
        load_audio(path, RATE_HZ)
    with pytest.raises(AudioError, match=r"broken\.wav has 1 samples"):
        list(stream_audio(path, RATE_HZ))


def test_load_audio_integers_in_a_float_file_raise_and_are_not_clipped(tmp_path, tone):
    soundfile.write(tmp_path / "loud.wav", tone.astype(np.float32), RATE_HZ, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"loud\.wav reaches \d+; samples kept as floats lie in"):
        load_audio(tmp_path / "loud.wav", RATE_HZ)


def test_load_audio_missing_file_folder_and_empty_file_raise(tmp_path):
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match=r"gone\.wav does not exist"):
        load_audio(tmp_path / "gone.wav", RATE_HZ)
    with pytest.raises(AudioError, match="is a folder, not an audio file"):
        load_audio(tmp_path, RATE_HZ)
    with pytest.raises(AudioError, match=r"empty\.wav is empty \(0 bytes\)"):
        load_audio({"path": str(tmp_path / "empty.wav"), "bytes": None}, RATE_HZ)


@pytest.mark.parametrize("rate_hz", [0, -8_000])
def test_load_audio_impossible_rate_raises(rate_hz, tone):
    with pytest.raises(ValueError, match="sampling_rate_hz is .* must be positive"):
        load_audio(tone, rate_hz)
    with pytest.raises(ValueError, match="the audio's sampling rate is .* must be positive"):
        load_audio(tone, RATE_HZ, source_rate_hz=rate_hz)


def test_load_audio_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(AudioError("a.wav is empty")))
    assert isinstance(error, ValueError)
    assert str(error) == "a.wav is empty"


def test_audio_duration_s_of_every_kind_of_source_is_its_length(tone_file, tone):
    sources = [tone_file, tone_file.read_bytes(), {"bytes": None, "path": str(tone_file)}]
    assert [audio_duration_s(source) for source in sources] == [1.5, 1.5, 1.5]
    assert audio_duration_s({"array": tone, "sampling_rate": 8_000}) == 3.0
    assert audio_duration_s(tone, source_rate_hz=RATE_HZ) == 1.5


def test_audio_duration_s_bare_array_without_rate_raises(tone):
    with pytest.raises(AudioError, match="has no sampling rate; pass source_rate_hz"):
        audio_duration_s(tone)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("block_s", [0.1, 0.37, 30.0])
def test_stream_audio_joined_matches_load_audio(rate_hz, block_s, tone_file):
    whole = load_audio(tone_file, rate_hz)
    blocks = list(stream_audio(tone_file, rate_hz, block_s))
    joined = np.concatenate(blocks)
    assert {len(block) for block in blocks[:-1]} <= {round(block_s * rate_hz)}
    assert abs(len(joined) - len(whole)) <= 1
    length = min(len(joined), len(whole))
    np.testing.assert_allclose(joined[:length], whole[:length], atol=1e-5)


def test_stream_audio_array_and_bytes_match_load_audio(tone, tone_file):
    for source in (tone, tone_file.read_bytes()):
        np.testing.assert_array_equal(np.concatenate(list(stream_audio(source, RATE_HZ, 0.2))), tone / 32_768)


def test_stream_audio_bad_arguments_raise(tone):
    with pytest.raises(ValueError, match=r"block_s is 0\.0 s, less than a sample"):
        list(stream_audio(tone, RATE_HZ, 0.0))
    with pytest.raises(AudioError, match="holds no samples"):
        list(stream_audio(np.zeros(0, np.float32), RATE_HZ))


def write_long_recording(path, minutes):
    """Write noise of so many minutes at 8 kHz without holding it in memory."""
    minute = (np.random.default_rng(0).standard_normal(60 * 8_000) * 3_000).astype(np.int16)
    with soundfile.SoundFile(path, "w", samplerate=8_000, channels=1, subtype="PCM_16") as file:
        for _ in range(minutes):
            file.write(minute)


def peak_bytes_of_streaming(path):
    tracemalloc.start()
    try:
        samples = sum(len(block) for block in stream_audio(path, RATE_HZ))
        return samples, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_stream_audio_memory_is_invariant_to_length(tmp_path):
    peaks = {}
    for minutes in (2, 10):
        write_long_recording(tmp_path / "long.wav", minutes)
        samples, peaks[minutes] = peak_bytes_of_streaming(tmp_path / "long.wav")
        assert samples == minutes * 60 * RATE_HZ
    assert peaks[10] < 1.1 * peaks[2] < 30e6


@pytest.mark.slow
def test_stream_audio_two_hours_needs_little_memory(tmp_path):
    write_long_recording(tmp_path / "long.wav", 120)
    assert audio_duration_s(tmp_path / "long.wav") == 7_200
    samples, peak = peak_bytes_of_streaming(tmp_path / "long.wav")
    assert samples == 7_200 * RATE_HZ
    assert peak < 30e6
