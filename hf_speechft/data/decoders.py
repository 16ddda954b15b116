"""Encoded sound becomes blocks of samples, for audio.py: libsndfile where it can, FFmpeg's libraries where it can't.

libsndfile (through soundfile) reads wav, flac, ogg, opus and mp3; PyAV reads m4a, mp4 and webm, and mp3 without a
count of its frames. Both ship their codecs in the wheel, so that a machine without FFmpeg decodes everything. Unusual
here: a file that is cut off is an error and never a short clip, because its transcript would no longer fit; libsndfile
alone reports that only for flac.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

_MAX_MISSING_S = 0.25  # container headers round durations and count encoder delay; a larger gap is a cut-off file
_OGG_PAGE_BYTES = 65_307  # the longest page that the format allows
_UNKNOWN_WAV_BYTES = 0x7FFF_0000  # programs that write wav into a pipe put such a length or a larger one
_WAV_HEADER_BYTES = 44  # some programs count them among the samples
_UNKNOWN_FRAMES = 2**62  # flac that was written into a pipe
_MP3_FIRST_FRAME_BYTES = 4_096  # holds the longest frame (1,441 bytes) with room for junk before it
# Demuxers that hold audio themselves: a playlist or a text file must not make FFmpeg open other files or addresses.
_CONTAINERS = "flac,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,mp3,asf,avi,flv,mpegts,mpeg,amr,caf,aiff,ac3,wv,ape,tta"


class AudioError(ValueError):
    """Sound that cannot be used: missing, empty, not audio, cut off, or with samples that are not finite."""


def decode_blocks(name: str, content: Path | bytes, block_s: float) -> Iterator[tuple[int, np.ndarray]]:
    """Decode a file block by block.

    Args:
        name: What to call it in errors.
        content: Path of an existing file, or its bytes.
        block_s: Length of a block in seconds; containers give one block for each of their frames instead.

    Yields:
        Rate in Hz and mono float32 `(samples,)`.

    Raises:
        AudioError: It is not audio, or is cut off; the latter after the last block that could be decoded.
    """
    sound = _open_soundfile(content)
    if sound is None:
        yield from _decode_container(name, content)
        return
    with sound:
        _check_length(name, content, sound)
        block_frames = max(1, round(block_s * sound.samplerate))
        decoded_frames = 0
        while True:
            try:
                block = sound.read(block_frames, dtype="float32", always_2d=True)  # (samples, channels)
            except soundfile.LibsndfileError as error:
                raise _cut_off(name, f"decoding fails: {error}") from error
            if not len(block):
                break
            decoded_frames += len(block)
            yield sound.samplerate, block.mean(axis=1)
        if decoded_frames < sound.frames:
            raise _cut_off(name, f"its header says {sound.frames} samples, {decoded_frames} can be decoded")


def encoded_duration_s(name: str, content: Path | bytes) -> float:
    """Find the duration of a file in seconds, and check that its end is there, without decoding it.

    Raises:
        AudioError: It is not audio, holds no samples or is cut off.
    """
    sound = _open_soundfile(content)
    if sound is None:
        return _container_duration_s(name, content)
    with sound:
        _check_length(name, content, sound)
        if sound.format != "OGG":  # whose last page has been looked at, which is faster
            _check_last_sample(name, sound)
        return sound.frames / sound.samplerate


class _SequentialSoundFile(soundfile.SoundFile):
    """A file that is read from front to back.

    soundfile seeks after each read of a seekable file; in mp3 a seek drops the bits that the next frame borrows from
    the one before, which puts clicks between blocks.
    """

    def seekable(self) -> bool:
        """Say no, so that reading never seeks."""
        return False


def _open_soundfile(content: Path | bytes) -> soundfile.SoundFile | None:
    """Open with libsndfile; None where it doesn't know the format or would guess the length."""
    try:
        sound = _SequentialSoundFile(io.BytesIO(content) if isinstance(content, bytes) else content)
    except soundfile.LibsndfileError:
        return None
    # Without a count of frames libsndfile guesses the length from the first frame's bit rate and stops there,
    # which loses more than half of some files of variable bit rate.
    if (sound.format == "MP3" and not _mp3_counts_frames(content)) or sound.frames >= _UNKNOWN_FRAMES:
        sound.close()
        return None
    return sound


def _mp3_counts_frames(content: Path | bytes) -> bool:
    """Look for the Xing or Info tag in the first frame, behind the ID3v2 tag if there is one (id3.org, 3.1)."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        header = file.read(10)
        tag_bytes = 0
        if header[:3] == b"ID3":
            for byte in header[6:10]:  # a number of 7 bits to the byte
                tag_bytes = tag_bytes << 7 | byte & 0x7F
            tag_bytes += len(header)
        file.seek(tag_bytes)
        first_frame = file.read(_MP3_FIRST_FRAME_BYTES)
    return b"Xing" in first_frame or b"Info" in first_frame


def _cut_off(name: str, evidence: str) -> AudioError:
    return AudioError(f"{name} is truncated or damaged: {evidence}; copy or record it again")


def _check_length(name: str, content: Path | bytes, sound: soundfile.SoundFile) -> None:
    """Find cut-off wav and Ogg files, whose missing part libsndfile passes over."""
    # libsndfile notes in its log what the header of the data chunk says and what is there.
    lengths = re.search(r"data : (\d+) \(should be (\d+)\)", sound.extra_info)
    if lengths and int(lengths[2]) + _WAV_HEADER_BYTES < int(lengths[1]) < _UNKNOWN_WAV_BYTES:
        raise _cut_off(name, f"its header says {lengths[1]} bytes of samples, {lengths[2]} are there")
    if sound.format == "OGG" and _last_ogg_page_is_cut(content):
        raise _cut_off(name, "its last Ogg page is incomplete")
    if not sound.frames:
        raise AudioError(f"{name} holds no samples; drop it or record it again")


def _last_ogg_page_is_cut(content: Path | bytes) -> bool:
    """Compare the last page's table of segments with what is left of the file (RFC 3533, section 6)."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 2 * _OGG_PAGE_BYTES))
        tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    segments = page[26] if len(page) > 26 else 0
    return len(page) < 27 + segments + sum(page[27 : 27 + segments])


def _check_last_sample(name: str, sound: soundfile.SoundFile) -> None:
    """Read the last sample; cheap, as libsndfile seeks to it."""
    try:
        sound.seek(sound.frames - 1)
        samples_left = len(sound.read(1))
    except soundfile.LibsndfileError as error:
        raise _cut_off(name, f"its end cannot be reached: {error}") from error
    if not samples_left:
        raise _cut_off(name, f"its header says {sound.frames} samples, the last of which is missing")


def _open_container(name: str, content: Path | bytes) -> Any:
    """Open with PyAV, imported here because most corpora never need it."""
    import av

    file = io.BytesIO(content) if isinstance(content, bytes) else str(content)
    try:
        container = av.open(file, options={"format_whitelist": _CONTAINERS})
    except (av.error.FFmpegError, ValueError) as error:
        wanted = "wav, flac, ogg, opus, mp3, m4a, mp4 and webm are read"
        raise AudioError(f"{name} is not audio, or is truncated in its header; {wanted}") from error
    if not container.streams.audio:
        container.close()
        raise AudioError(f"{name} has no audio track; give a file with sound")
    return container


def _check_container_length(name: str, container: Any, found_s: float) -> None:
    """Compare what was found with the header, where that holds a length of the audio track and not a guess."""
    stream = container.streams.audio[0]
    if container.format.name == "mp3":
        declared_s = None  # FFmpeg guesses it from the bit rate
    elif stream.duration:
        declared_s = float(stream.duration * stream.time_base)
    elif container.duration and not container.streams.video:  # which may be the longer track
        declared_s = container.duration / 1e6  # microseconds
    else:
        declared_s = None
    if declared_s is not None and found_s < declared_s - _MAX_MISSING_S:
        raise _cut_off(name, f"its header says {declared_s:.2f} s, {found_s:.2f} s are there")
    if not found_s:
        raise AudioError(f"{name} holds no samples; drop it or record it again")


def _container_duration_s(name: str, content: Path | bytes) -> float:
    """Sum the durations of the packets, which needs no decoding; headers can lack a duration or guess it."""
    import av

    with _open_container(name, content) as container:
        stream = container.streams.audio[0]
        try:
            duration_s = float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)
        except av.error.FFmpegError as error:
            raise _cut_off(name, f"reading fails: {error}") from error
        _check_container_length(name, container, duration_s)
    return duration_s


def _decode_container(name: str, content: Path | bytes) -> Iterator[tuple[int, np.ndarray]]:
    import av

    decoded_s = 0.0
    with _open_container(name, content) as container:
        to_float = av.AudioResampler(format="fltp")
        try:
            for frame in container.decode(container.streams.audio[0]):
                for planar in to_float.resample(frame):
                    block = planar.to_ndarray().mean(axis=0, dtype=np.float32)  # (channels, samples) -> (samples,)
                    decoded_s += block.size / planar.sample_rate
                    yield planar.sample_rate, block
        except av.error.FFmpegError as error:
            raise _cut_off(name, f"decoding fails after {decoded_s:.2f} s: {error}") from error
        _check_container_length(name, container, decoded_s)
