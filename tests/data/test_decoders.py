"""File formats: what is read, how long it is said to be, and that a cut-off file is never taken for a short one."""

import struct
from itertools import pairwise

import av
import numpy as np
import pytest
import soundfile

from hf_speechft.data.audio import audio_duration_s, load_audio, stream_audio
from hf_speechft.data.decoders import AudioError, decode_blocks, encoded_duration_s

RATE_HZ = 16_000
DURATION_S = 3.0
SOUNDFILE_FORMATS = {
    "wav": {},
    "flac": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {},
    "aiff": {},
}
CODECS = {"m4a": "aac", "mp4": "aac", "webm": "libopus"}
EVERY_FORMAT = [*SOUNDFILE_FORMATS, *CODECS]


def sound(rate_hz=RATE_HZ, duration_s=DURATION_S):
    """Two tones with a slow rise, so that neither length nor place can be mistaken."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    tones = np.sin(2 * np.pi * 440 * time_s) + np.sin(2 * np.pi * 1_200 * time_s)
    return (0.3 * tones * np.linspace(0.1, 1, len(time_s))).astype(np.float32)


def write_container(path, samples, codec, rate_hz, layout="mono"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.atleast_2d(samples), format="fltp", layout=layout)
        frame.sample_rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write(folder, suffix):
    path = folder / f"clip.{suffix}"
    if suffix in SOUNDFILE_FORMATS:
        soundfile.write(path, sound(), RATE_HZ, **SOUNDFILE_FORMATS[suffix])
    else:
        rate_hz = 48_000 if suffix == "webm" else RATE_HZ  # FFmpeg's opus encoder takes 48 kHz
        write_container(path, sound(rate_hz), CODECS[suffix], rate_hz)
    return path


@pytest.mark.parametrize("suffix", EVERY_FORMAT)
@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
def test_load_audio_every_format_gives_the_sound_that_was_written(suffix, as_bytes, tmp_path):
    path = write(tmp_path, suffix)
    loaded = load_audio(path.read_bytes() if as_bytes else path, RATE_HZ)
    original = sound()
    assert len(original) <= len(loaded) < len(original) + 2_100  # aac and opus pad to whole frames and add delay
    lags = range(0, len(loaded) - len(original) + 1, 16)
    correlations = [np.corrcoef(loaded[lag : lag + len(original)], original)[0, 1] for lag in lags]
    assert max(correlations) > 0.97


@pytest.mark.parametrize("suffix", EVERY_FORMAT)
@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
def test_audio_duration_s_every_format_is_the_length_that_was_written(suffix, as_bytes, tmp_path):
    path = write(tmp_path, suffix)
    assert audio_duration_s(path.read_bytes() if as_bytes else path) == pytest.approx(DURATION_S, abs=0.1)


@pytest.mark.parametrize("suffix", EVERY_FORMAT)
def test_stream_audio_every_format_matches_load_audio(suffix, tmp_path):
    path = write(tmp_path, suffix)
    whole = load_audio(path, 8_000)
    joined = np.concatenate(list(stream_audio(path, 8_000, 0.5)))
    assert abs(len(joined) - len(whole)) <= 1
    length = min(len(joined), len(whole))
    np.testing.assert_allclose(joined[:length], whole[:length], atol=1e-5)


@pytest.mark.parametrize("suffix", [suffix for suffix in EVERY_FORMAT if suffix != "aiff"])
@pytest.mark.parametrize("as_bytes", [False, True], ids=["path", "bytes"])
def test_truncated_file_raises_in_header_and_in_decoding(suffix, as_bytes, tmp_path):
    path = write(tmp_path, suffix)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    source = path.read_bytes() if as_bytes else path
    for read in (
        audio_duration_s,
        lambda clip: load_audio(clip, RATE_HZ),
        lambda clip: list(stream_audio(clip, 8_000)),
    ):
        with pytest.raises(AudioError, match=r"(clip\.|audio of \d+ bytes).* truncated"):
            read(source)


def test_truncated_m4a_with_its_index_in_front_raises(tmp_path):
    path = tmp_path / "clip.m4a"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound()[None], format="fltp", layout="mono")
        frame.sample_rate = RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    for read in (audio_duration_s, lambda clip: load_audio(clip, RATE_HZ)):
        with pytest.raises(AudioError, match=r"clip\.m4a is truncated or damaged"):
            read(path)


@pytest.mark.parametrize("claimed_bytes", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000, 0])
def test_wav_from_a_pipe_with_unknown_length_is_read(claimed_bytes, tmp_path):
    path = write(tmp_path, "wav")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", claimed_bytes)
    path.write_bytes(content)
    if claimed_bytes:
        assert len(load_audio(path, RATE_HZ)) == 48_000
        assert audio_duration_s(path) == DURATION_S
    else:
        with pytest.raises(AudioError, match="holds no samples"):
            load_audio(path, RATE_HZ)


@pytest.mark.parametrize(("too_many_bytes", "is_read"), [(36, True), (4_000, False)])
def test_wav_whose_header_counts_itself_is_read_and_one_that_is_cut_off_is_not(too_many_bytes, is_read, tmp_path):
    path = write(tmp_path, "wav")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack(
        "<I", int.from_bytes(content[place : place + 4], "little") + too_many_bytes
    )
    path.write_bytes(content)
    if is_read:
        assert len(load_audio(path, RATE_HZ)) == 48_000
    else:
        with pytest.raises(AudioError, match="truncated"):
            load_audio(path, RATE_HZ)


def test_flac_from_a_pipe_with_unknown_length_is_read(tmp_path):
    path = write(tmp_path, "flac")
    expected = load_audio(path, RATE_HZ)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(load_audio(path, RATE_HZ), expected)
    assert audio_duration_s(path) == pytest.approx(DURATION_S)


def test_wav_with_a_chunk_behind_its_samples_is_read(tmp_path):
    path = write(tmp_path, "wav")
    path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert len(load_audio(path, RATE_HZ)) == 48_000


def mp3_without_frame_count(path):
    """Write mp3 of variable bit rate, quiet then loud, and take off the first frame, which holds the Xing tag."""
    rng = np.random.default_rng(0)
    samples = 0.3 * rng.standard_normal(5 * RATE_HZ).astype(np.float32)
    soundfile.write(path, samples, RATE_HZ, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    content = path.read_bytes()
    starts = [place for place in range(len(content) - 1) if content[place] == 0xFF and content[place + 1] == 0xF3]
    assert b"Xing" in content[: starts[1]]
    return content[next(after for before, after in pairwise(starts) if after - before > 36) :]


def test_mp3_of_variable_rate_without_frame_count_is_read_to_its_end(tmp_path):
    path = tmp_path / "stripped.mp3"
    path.write_bytes(mp3_without_frame_count(path))
    # libsndfile by itself guesses the length from the first frame: the guess must not be what we return
    assert abs(soundfile.info(path).duration - 5.0) > 0.5
    assert audio_duration_s(path) == pytest.approx(5.0, abs=0.2)
    assert len(load_audio(path, RATE_HZ)) / RATE_HZ == pytest.approx(5.0, abs=0.2)


def test_mp3_with_a_large_id3_tag_is_read(tmp_path):
    path = write(tmp_path, "mp3")
    picture_bytes = 9_000
    size = bytes([0, 0, picture_bytes >> 7, picture_bytes & 0x7F])
    path.write_bytes(b"ID3\x03\x00\x00" + size + bytes(picture_bytes) + path.read_bytes())
    assert len(load_audio(path, RATE_HZ)) == 48_000


@pytest.mark.parametrize("name", ["notes.txt", "notes.wav", "list.m3u8", "noise.bin", "noise.m4a"])
def test_file_that_is_not_audio_raises_naming_it(name, tmp_path):
    path = tmp_path / name
    if name.startswith("noise"):
        path.write_bytes(np.random.default_rng(1).bytes(5_000))
    else:
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nclip.wav\n#EXT-X-ENDLIST\n" * 20)
    for read in (audio_duration_s, lambda clip: load_audio(clip, RATE_HZ)):
        with pytest.raises(AudioError, match=rf"{name} is not audio.*wav, flac, ogg, opus, mp3, m4a"):
            read(path)


def test_video_without_sound_raises(tmp_path):
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        container.mux(stream.encode(None))
    with pytest.raises(AudioError, match=r"silent\.mp4 has no audio track"):
        load_audio(path, RATE_HZ)


def test_file_with_a_header_and_no_samples_raises(tmp_path):
    for suffix in ("wav", "aiff"):
        path = tmp_path / f"none.{suffix}"
        soundfile.write(path, np.zeros(0), RATE_HZ)
        for read in (audio_duration_s, lambda clip: load_audio(clip, RATE_HZ)):
            with pytest.raises(AudioError, match=rf"none\.{suffix} holds no samples"):
                read(path)


def test_decode_blocks_stereo_container_is_averaged(tmp_path):
    path = tmp_path / "stereo.m4a"
    write_container(path, np.stack([sound(), np.zeros_like(sound())]), "aac", RATE_HZ, layout="stereo")
    samples = np.concatenate([block for _, block in decode_blocks("stereo", path, 1.0)])
    assert np.abs(samples).max() == pytest.approx(np.abs(sound()).max() / 2, rel=0.1)


def test_encoded_duration_s_one_sample_is_not_lost(tmp_path):
    path = tmp_path / "one.wav"
    soundfile.write(path, np.array([0.5]), RATE_HZ)
    assert encoded_duration_s("one", path) == 1 / RATE_HZ
    assert load_audio(path, RATE_HZ) == [0.5]


@pytest.mark.speech
@pytest.mark.parametrize("name", ["an4", "librispeech_4h", "fsdd", "arabic_commands"])
def test_audio_duration_s_real_recordings_match_their_samples(name, speech_folder):
    for path in sorted(path for path in (speech_folder / name / "test").iterdir() if path.suffix != ".csv")[:5]:
        samples, rate_hz = soundfile.read(path)
        assert audio_duration_s(path) == len(samples) / rate_hz
        assert len(load_audio(path, rate_hz)) == len(samples)
