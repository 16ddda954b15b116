"""Variants of the training speech: other speeds, rooms, noises, loudness and lines, and clips in which nobody speaks.

Speeds and silence are rows of the split, made before training, so that batches know durations. The rest is drawn anew
in each epoch, while the collator decodes a clip (effects.py), from a generator that depends on the run's seed, the
epoch and the utterance's id only: workers, processes, batches and interruptions change nothing.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from datasets import Dataset, concatenate_datasets

from hf_speechft.data.effects import (
    add_noise,
    change_gain,
    decibels,
    reverberate,
    synthetic_room_response,
    telephone_band,
)
from hf_speechft.data.sounds import SoundFolder

SLOWEST, FASTEST = 0.5, 2.0
RT60_S = (0.2, 0.8)  # from a furnished room to a hall
DIRECT_DB = (-3.0, 9.0)  # from across the room to near the microphone
HISS_DBFS = (-80.0, -50.0)  # of a microphone where nobody speaks
BACKGROUND_DBFS = (-50.0, -20.0)  # of noise where nobody speaks


@dataclass(frozen=True)
class Augmentation:
    """Draws what happens to a clip on its way from the speaker: room, noise, line, loudness, in this order.

    Where a clip is digital silence (`add_silence`), hiss and noise take its place.

    Attributes:
        noises: Noises to add; none without it.
        noise_prob: Share of clips that get noise.
        noise_snr_db: Lowest and highest signal-to-noise ratio; what is between is equally likely.
        reverb_prob: Share of clips that get the sound of a room.
        rooms: Room responses; without it they are made (`synthetic_room_response`).
        gain_db: Each clip is made louder or softer by up to so much.
        telephone_prob: Share of clips that get the telephone's band.
        silence_share: What `add_silence` is given; no clip is changed by it.

    Raises:
        ValueError: A probability is not from 0 to 1, a range is reversed, or a number is not finite.
    """

    noises: SoundFolder | None = None
    noise_prob: float = 0.5
    noise_snr_db: tuple[float, float] = (5.0, 25.0)
    reverb_prob: float = 0.0
    rooms: SoundFolder | None = None
    gain_db: float = 0.0
    telephone_prob: float = 0.0
    silence_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("noise_prob", "reverb_prob", "telephone_prob", "silence_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it needs to be from 0 to 1")
        ratios = tuple(self.noise_snr_db)
        if len(ratios) != 2 or not np.isfinite(ratios).all() or ratios[0] > ratios[1]:
            given = " ".join(f"{ratio:g}" for ratio in ratios)
            raise ValueError(f"noise_snr_db is {given}; give two numbers in dB, the lowest first, such as 5 25")
        if not 0 <= self.gain_db < np.inf:
            raise ValueError(f"gain_db is {self.gain_db}; give a number from 0 up, such as 6 for -6 to +6 dB")

    @property
    def does_something(self) -> bool:
        """Whether any clip is changed or added."""
        changes = (self.noises and self.noise_prob, self.reverb_prob, self.telephone_prob, self.gain_db)
        return any(changes) or self.silence_share > 0

    def __call__(self, waveform: np.ndarray, sampling_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        """Change a clip.

        Args:
            waveform: `(samples,)`.
            sampling_rate_hz: Its rate.
            generator: Draws everything.

        Returns:
            float32 `(samples,)`, made softer as a whole where it would exceed full scale.
        """
        if not waveform.any():
            waveform = self._background(len(waveform), generator)
        else:
            if generator.random() < self.reverb_prob:
                waveform = reverberate(waveform, self._room(sampling_rate_hz, generator))
            if self.noises is not None and generator.random() < self.noise_prob:
                noise = self.noises.draw_excerpt(len(waveform), generator)
                waveform = add_noise(waveform, noise, generator.uniform(*self.noise_snr_db))
        if generator.random() < self.telephone_prob:
            waveform = telephone_band(waveform, sampling_rate_hz)
        if self.gain_db:
            waveform = change_gain(waveform, generator.uniform(-self.gain_db, self.gain_db))
        peak = float(np.abs(waveform).max(initial=0.0))
        return waveform / np.float32(peak) if peak > 1 else waveform

    def _room(self, sampling_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        if self.rooms is not None:
            return self.rooms.draw(generator)
        rt60_s, direct_db = generator.uniform(*RT60_S), generator.uniform(*DIRECT_DB)
        return synthetic_room_response(rt60_s, sampling_rate_hz, generator, direct_db=direct_db)

    def _background(self, samples: int, generator: np.random.Generator) -> np.ndarray:
        """Hiss, and noise on top of it as often as on speech, `(samples,)`."""
        hiss_dbfs = generator.uniform(*HISS_DBFS)
        hiss = generator.standard_normal(samples, dtype=np.float32) * np.float32(decibels(hiss_dbfs))
        if self.noises is None or generator.random() >= self.noise_prob:
            return hiss
        noise = self.noises.draw_excerpt(samples, generator)
        return add_noise(hiss, noise, hiss_dbfs - generator.uniform(*BACKGROUND_DBFS))


def draw_generator(seed: int, epoch: int, utterance_id: str) -> np.random.Generator:
    """Make the generator of one utterance in one epoch."""
    digest = hashlib.sha256(utterance_id.encode("utf-8")).digest()
    return np.random.default_rng([seed, epoch, int.from_bytes(digest[:8], "little")])


def mark_augmented(dataset: Dataset) -> Dataset:
    """Give a split the column that tells the collator to augment its rows."""
    return dataset.add_column("augmented", [True] * len(dataset))


def add_silence(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Add utterances without speech and with an empty transcript, from which a model learns to stay silent.

    They are digital silence that lasts as long as utterances of the split do; `Augmentation` makes background sound of
    it.

    Args:
        dataset: A split from `load_corpus`, filtered: a filter would drop empty transcripts.
        share: How many, as a share of the split's utterances.
        seed: Of their durations.

    Returns:
        The split with the new rows at its end.

    Raises:
        ValueError: The share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of silence is {share}; it needs to be from 0 to 1")
    count = round(share * len(dataset))
    if not count:
        return dataset
    durations_s = np.random.default_rng([seed, count]).choice(dataset["duration_s"][:], count).tolist()
    ids = [f"silence#{number}" for number in range(count)]
    columns = {
        "audio": [{"bytes": _encode_silence(duration_s), "path": None} for duration_s in durations_s],
        "text": [""] * count,
        "speaker_id": [""] * count,
        "duration_s": durations_s,
        "utterance_id": ids,
    }
    if "speed" in dataset.column_names:
        columns["speed"] = [1.0] * count
    columns |= {name: [""] * count for name in dataset.column_names if name not in columns}  # kept for --balance_by
    silence = Dataset.from_dict(columns).cast_column("audio", dataset.features["audio"])
    return concatenate_datasets([dataset.select_columns(list(columns)), silence])


def _encode_silence(duration_s: float) -> bytes:
    """FLAC of digital silence: a few bytes for each second."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(max(1, round(duration_s * 16_000)), np.int16), 16_000, format="FLAC")
    return file.getvalue()


def change_speed(waveform: np.ndarray, factor: float, sampling_rate_hz: int) -> np.ndarray:
    """Play a waveform faster or slower, which changes tempo and pitch together (sox `speed`).

    Args:
        waveform: Mono samples `(samples,)`.
        factor: 1.1 is a tenth faster.
        sampling_rate_hz: Rate of the waveform, and of the result.

    Returns:
        About `samples / factor` float32 samples.

    Source: Ko et al., "Audio augmentation for speech recognition", Interspeech 2015, section 2.
    """
    if factor == 1.0:
        return waveform
    return soxr.resample(waveform, sampling_rate_hz * factor, sampling_rate_hz).astype(np.float32)


def check_speed_factors(factors: Sequence[float]) -> None:
    """Refuse speeds that make no sense.

    Raises:
        ValueError: No factor, or one that is out of range or given twice.
    """
    if not factors or len(set(factors)) < len(factors) or not all(SLOWEST <= one <= FASTEST for one in factors):
        raise ValueError(f"speed factors are {list(factors)}; give distinct numbers from {SLOWEST} to {FASTEST}")


def expand_speeds(dataset: Dataset, factors: Sequence[float]) -> Dataset:
    """Repeat a split once for each speed.

    The copies differ in the column `speed`, which the collator applies, and in `duration_s` and `utterance_id`, so
    that batches see each copy as it will sound.

    Args:
        dataset: A split from `load_corpus`.
        factors: Speeds between 0.5 and 2; 1 is the recording as it is.

    Returns:
        The split with `len(factors)` times as many rows.

    Raises:
        ValueError: As `check_speed_factors`.
    """
    check_speed_factors(factors)
    durations, ids = dataset["duration_s"], dataset["utterance_id"]
    copies = []
    for factor in factors:
        copy = dataset.add_column("speed", [factor] * len(dataset))
        if factor != 1.0:
            copy = copy.remove_columns(["duration_s", "utterance_id"])
            copy = copy.add_column("duration_s", [duration / factor for duration in durations])
            copy = copy.add_column("utterance_id", [f"{name}@{factor:g}" for name in ids])
        copies.append(copy)
    return concatenate_datasets(copies)
