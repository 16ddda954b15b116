"""A folder of noises or of room responses, from which training draws: no transcripts, any format, any layout below it.

Files are decoded once and kept as 16-bit integers up to a limit of memory; those beyond it are read at each use, and
of them only the part that is used. Data loader workers that are forked share what was kept.
"""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from hf_speechft.data.audio import RESAMPLING_QUALITY, AudioError, audio_duration_s, load_audio

# libsndfile's formats and those of PyAV; what else lies in the folder (metadata.csv, README.md) is passed over.
SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".m4a", ".mp4", ".webm", ".aac"}
KEPT_BYTES = 256_000_000  # 2.2 hours at 16 kHz
_INT16_SCALE = 32_767


class SoundFolder:
    """All audio files below a folder, at one rate.

    Args:
        folder: Where to look; every header is read, so that a file that cannot be used is found now.
        sampling_rate_hz: Rate at which sounds are given.
        kept_bytes: Memory for decoded sounds.

    Raises:
        ValueError: The folder does not exist, holds no audio, or one of its files cannot be read.
    """

    def __init__(self, folder: str | os.PathLike, sampling_rate_hz: int, *, kept_bytes: int = KEPT_BYTES) -> None:
        self.folder = Path(folder).expanduser()
        self.sampling_rate_hz = sampling_rate_hz
        self.files = self._find()
        self.durations_s = [self._checked(audio_duration_s, file) for file in self.files]
        self._kept: dict[int, np.ndarray] = {}
        for index, duration_s in enumerate(self.durations_s):
            kept_bytes -= 2 * round(duration_s * sampling_rate_hz)
            if kept_bytes >= 0:
                waveform = self._checked(load_audio, self.files[index], sampling_rate_hz)
                self._kept[index] = np.round(waveform * _INT16_SCALE).astype(np.int16)

    def __len__(self) -> int:
        return len(self.files)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Draw a file, each as likely as another, and give it whole: float32 `(samples,)`."""
        index = int(generator.integers(len(self.files)))
        kept = self._kept.get(index)
        return load_audio(self.files[index], self.sampling_rate_hz) if kept is None else _as_float(kept)

    def draw_excerpt(self, samples: int, generator: np.random.Generator) -> np.ndarray:
        """Draw a file and a place in it.

        Args:
            samples: Length of the excerpt.
            generator: Draws both.

        Returns:
            float32 `(samples,)`; a file that is shorter is repeated, from a place within it.
        """
        index, place = int(generator.integers(len(self.files))), float(generator.random())
        kept = self._kept.get(index)
        length = round(self.durations_s[index] * self.sampling_rate_hz) if kept is None else len(kept)
        if length <= samples:
            whole = load_audio(self.files[index], self.sampling_rate_hz) if kept is None else _as_float(kept)
            return np.resize(np.roll(whole, -int(place * len(whole))), samples)
        start = int(place * (length - samples + 1))
        if kept is not None:
            return _as_float(kept[start : start + samples])
        return self._read(self.files[index], start, samples)

    def _find(self) -> list[Path]:
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder} is no folder; give one with audio files in it or below it")
        files = sorted(file for file in self.folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            known = " ".join(sorted(SUFFIXES))
            raise ValueError(f"{self.folder} holds no audio file; put some there, of one of the formats {known}")
        return files

    def _checked(self, read: object, file: Path, *arguments: object) -> object:
        try:
            return read(file, *arguments)
        except AudioError as error:
            raise ValueError(f"{self.folder} holds a file that cannot be used: {error}; or remove it") from error

    def _read(self, file: Path, start: int, samples: int) -> np.ndarray:
        """Read a part of a file that is not kept; only libsndfile's formats can be entered in the middle."""
        try:
            sound = soundfile.SoundFile(file)
        except soundfile.LibsndfileError:
            return load_audio(file, self.sampling_rate_hz)[start : start + samples]
        with sound:
            ratio = sound.samplerate / self.sampling_rate_hz
            sound.seek(min(int(start * ratio), sound.frames - 1))
            part = sound.read(int(np.ceil(samples * ratio)), dtype="float32", always_2d=True).mean(axis=1)
            if sound.samplerate != self.sampling_rate_hz:
                part = soxr.resample(part, sound.samplerate, self.sampling_rate_hz, quality=RESAMPLING_QUALITY)
        return np.resize(part, samples)  # rounding may leave one too many or too few


def _as_float(kept: np.ndarray) -> np.ndarray:
    return kept.astype(np.float32) / _INT16_SCALE
