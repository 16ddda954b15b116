"""Corpora spoken by espeak-ng: made on this machine, the same bytes everywhere for a seed, and cached.

Unusual here: every utterance draws from its own seed (corpus seed, split, index), and the sound is computed with
integers and float64 and rounded to int16, so that the same seed gives the same bytes everywhere, in any order of
synthesis. No human recorded this.
"""

import csv
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import numpy as np
import soundfile
import soxr
from datasets.utils import tqdm

from hf_speechft.data.speak import ESPEAK_RATE_HZ, Speaker

logger = logging.getLogger(__name__)

SAMPLING_RATE_HZ = 16000
SPLITS = ("train", "validation", "test")
# Part of the cache's name, as are all facts of all utterances: raise it when the same facts give other samples.
RENDERING_VERSION = 1

_ACCENTS = ("en-us", "en")
_TRAIN_VARIANTS = (
    # Women's and children's registers.
    *("f1", "Andrea", "anika", "aunty", "grandma", "linda", "steph", "steph2", "zac"),
    # Men's registers.
    *("m1", "m2", "m4", "m5", "m7", "m8", "Andy", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Lee"),
    *("Mario", "Mike", "Nguyen", "antonio", "boris", "ed", "grandpa", "gustave", "iven2", "iven3", "iven4", "john"),
    *("kaukovalta", "marcelo", "michel", "miguel", "pablo", "paul", "pedro", "rob"),
)
# Speakers (voice names) of each split of an English corpus. Left out are whispers, robots and long echoes, and the
# variants with "klatt" or "breath" in their files: they add noise, which not every system draws alike.
SPEAKERS: dict[str, tuple[str, ...]] = {
    "train": tuple(f"{accent}+{variant}" for variant in _TRAIN_VARIANTS for accent in _ACCENTS),
    "validation": ("en-us+belinda", "en-us+m6", "en+steph3", "en+norbert"),
    "test": (
        *("en-us+f4", "en-us+Annie", "en-us+m3", "en-us+Alex", "en-us+max"),
        *("en+shelby", "en+travis", "en+robert"),
    ),
}

_WORDS_PER_MINUTE = (130, 190)
_PITCH = (35, 65)
_SILENCE_S = (0.05, 0.2)
_PEAK_DB = (-20.0, -3.0)  # relative to full scale
_SNR_DB = (15.0, 35.0)
_SILENT_BELOW = 64  # int16 steps; espeak-ng's own pauses are below it


@dataclass(frozen=True)
class Utterance:
    """What one utterance says, who says it and how.

    Attributes:
        split: "train", "validation" or "test".
        index: Number within the split; with the corpus seed and the split it seeds everything drawn below.
        text: The command.
        voice: espeak-ng voice, which is also the speaker's identity.
        words_per_minute: Speed.
        pitch: espeak-ng's pitch, 0 to 99.
        lead_s: Silence before the speech.
        trail_s: Silence after the speech.
        peak_db: Level of the highest speech sample against full scale.
        snr_db: Power of the speech over that of the noise.
        noise_color: 0 is white noise; towards 1 it loses its treble.
    """

    split: str
    index: int
    text: str
    voice: str
    words_per_minute: int
    pitch: int
    lead_s: float
    trail_s: float
    peak_db: float
    snr_db: float
    noise_color: float

    @property
    def file_name(self) -> str:
        """Name of its sound file inside the split's folder."""
        return f"{self.split}_{self.index:05d}.wav"


def plan_lines(lines: Sequence[str], utterances: int, *, seed: int, language: str | None = None) -> list[Utterance]:
    """Decides who speaks the lines of a text, in turn until there are so many utterances, all of the train split.

    Args:
        lines: Sentences, at least one.
        utterances: How many to speak; more than there are lines has lines again, by other speakers.
        seed: Seed of everything that is drawn.
        language: espeak-ng's name of the voices' language, such as "de"; by default two accents of English.

    Raises:
        ValueError: There is no line.
    """
    if not lines:
        raise ValueError("there is no line to speak; give a text with one sentence a line")
    speakers = SPEAKERS["train"]
    if language is not None:
        speakers = tuple(f"{language}+{variant}" for variant in _TRAIN_VARIANTS)
    return [draw_utterance(seed, "train", index, lines[index % len(lines)], speakers) for index in range(utterances)]


def load_spoken(
    utterances: Sequence[Utterance], *, name: str, seed: int, cache_dir: str | os.PathLike[str] | None = None
) -> datasets.DatasetDict:
    """Gives a corpus; the first call speaks it (about 10 ms an utterance), later calls read it from the cache.

    Args:
        utterances: What is said, by whom and how, from `draw_utterance`.
        name: Of the corpus, for the cache and the progress bar.
        seed: Seed of the noise.
        cache_dir: Folder in which the corpus gets a folder of its own; by default that of the `datasets` library.

    Returns:
        Splits train, validation and test with the columns audio (16 kHz, undecoded), text, speaker_id, duration_s and
        utterance_id.

    Raises:
        ImportError: espeakng-loader is not installed.
    """
    folder = _cache_folder(cache_dir, name, seed, utterances)
    if not _is_complete(folder):
        _write_corpus(folder, utterances, name, seed)
    return datasets.DatasetDict({split: _read_split(folder / split) for split in SPLITS})


def draw_utterance(seed: int, split: str, index: int, text: str, speakers: Sequence[str]) -> Utterance:
    """Decides who says a text and how; the arguments, and nothing else, decide what is drawn."""
    # A second stream of the same utterance makes its noise.
    draw = generator(seed, SPLITS.index(split), index, 0)
    return Utterance(
        split=split,
        index=index,
        text=text,
        voice=speakers[int(draw.integers(len(speakers)))],
        words_per_minute=int(draw.integers(_WORDS_PER_MINUTE[0], _WORDS_PER_MINUTE[1] + 1)),
        pitch=int(draw.integers(_PITCH[0], _PITCH[1] + 1)),
        lead_s=float(draw.uniform(*_SILENCE_S)),
        trail_s=float(draw.uniform(*_SILENCE_S)),
        peak_db=float(draw.uniform(*_PEAK_DB)),
        snr_db=float(draw.uniform(*_SNR_DB)),
        noise_color=float(draw.uniform()),
    )


def render_utterance(utterance: Utterance, speaker: Speaker, seed: int) -> np.ndarray:
    """Speaks one utterance of the corpus: silence, speech and silence under light noise.

    Args:
        utterance: What to render.
        speaker: An open espeak-ng.
        seed: Seed of the corpus, from which the noise is drawn.

    Returns:
        Mono int16 waveform `(samples,)` at 16 kHz.
    """
    spoken = speaker.synthesize(
        utterance.text, utterance.voice, words_per_minute=utterance.words_per_minute, pitch=utterance.pitch
    )
    spoken = spoken.astype(np.float64)
    loud = np.flatnonzero(np.abs(spoken) >= _SILENT_BELOW)
    speech = soxr.resample(spoken[loud[0] : loud[-1] + 1], ESPEAK_RATE_HZ, SAMPLING_RATE_HZ, quality="VHQ")
    speech *= 10.0 ** (utterance.peak_db / 20) / np.abs(speech).max()  # (samples,), full scale = 1
    lead, trail = (round(silence_s * SAMPLING_RATE_HZ) for silence_s in (utterance.lead_s, utterance.trail_s))
    signal = np.pad(speech, (lead, trail))
    # Uniform rather than normal noise: it needs no logarithm, whose last bit differs between systems.
    draw = generator(seed, SPLITS.index(utterance.split), utterance.index, 1)
    noise = draw.random(len(signal) + 1) * 2 - 1
    noise = noise[1:] + utterance.noise_color * noise[:-1]
    noise *= np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10.0 ** (-utterance.snr_db / 20)
    return np.clip(np.rint((signal + noise) * 32767), -32768, 32767).astype(np.int16)


def generator(*key: int) -> np.random.Generator:
    """Random numbers that depend on the key only, on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _cache_folder(
    cache_dir: str | os.PathLike[str] | None, name: str, seed: int, utterances: Sequence[Utterance]
) -> Path:
    if cache_dir is None:
        cache_dir = datasets.config.HF_DATASETS_CACHE
    try:
        loader_version = importlib.metadata.version("espeakng-loader")
    except importlib.metadata.PackageNotFoundError:
        loader_version = None  # a corpus cannot be made then; Speaker says what to install
    facts = [RENDERING_VERSION, loader_version, seed, [asdict(utterance) for utterance in utterances]]
    fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return Path(cache_dir) / f"hf_speechft_{name}" / fingerprint


def _write_corpus(folder: Path, utterances: Sequence[Utterance], name: str, seed: int) -> None:
    """Writes the corpus beside its place and then renames it, so that a killed run leaves nothing that looks whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        _render_corpus(partial, utterances, name, seed)
        if folder.exists() and not _is_complete(folder):
            logger.warning("the %s corpus in %s has files missing; it is replaced", name, folder)
            shutil.rmtree(folder)
        try:
            partial.rename(folder)
        except OSError:
            if not _is_complete(folder):  # otherwise another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("wrote the %s corpus, %d utterances, to %s", name, len(utterances), folder)


def _render_corpus(folder: Path, utterances: Sequence[Utterance], name: str, seed: int) -> None:
    rows: dict[str, list[dict[str, str | float]]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        (folder / split).mkdir()
    with Speaker() as speaker:
        for utterance in tqdm(utterances, desc=f"Speaking the {name} corpus", unit="utterance"):
            waveform = render_utterance(utterance, speaker, seed)
            # WAV, since a FLAC file's bytes depend on the encoder's version.
            soundfile.write(folder / utterance.split / utterance.file_name, waveform, SAMPLING_RATE_HZ, "PCM_16")
            rows[utterance.split].append(_describe(utterance, len(waveform)))
    for split in SPLITS:
        _write_metadata(folder / split, rows[split])


def _describe(utterance: Utterance, samples: int) -> dict[str, str | float]:
    """Gives an utterance's row of metadata.csv; how it was spoken is kept for those who analyse errors."""
    drawn = ("words_per_minute", "pitch", "lead_s", "trail_s", "peak_db", "snr_db", "noise_color")
    return {
        "file_name": utterance.file_name,
        "transcription": utterance.text,
        "speaker_id": utterance.voice,
        "duration": samples / SAMPLING_RATE_HZ,
        **{name: round(getattr(utterance, name), 4) for name in drawn},
    }


def _write_metadata(folder: Path, rows: list[dict[str, str | float]]) -> None:
    names = list(rows[0]) if rows else ["file_name", "transcription", "speaker_id", "duration"]
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _remove_leftovers(folder: Path, older_than_s: float = 3600.0) -> None:
    """Removes what killed runs left; younger folders may belong to a process that is still writing."""
    for leftover in folder.parent.glob(f"{folder.name}.partial-*"):
        if time.time() - leftover.stat().st_mtime > older_than_s:
            shutil.rmtree(leftover, ignore_errors=True)


def _is_complete(folder: Path) -> bool:
    return all(
        (folder / split / "metadata.csv").is_file()
        and {row["file_name"] for row in _read_metadata(folder / split)}.issubset(os.listdir(folder / split))
        for split in SPLITS
    )


def _read_metadata(folder: Path) -> Iterator[dict[str, str]]:
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _read_split(folder: Path) -> datasets.Dataset:
    rows = list(_read_metadata(folder))
    columns = {
        "audio": [str(folder / row["file_name"]) for row in rows],
        "text": [row["transcription"] for row in rows],
        "speaker_id": [row["speaker_id"] for row in rows],
        "duration_s": [float(row["duration"]) for row in rows],
        "utterance_id": [Path(row["file_name"]).stem for row in rows],
    }
    # Built as strings and cast: given as a feature, Audio would look for torchcodec.
    kinds = {name: datasets.Value("float64" if name == "duration_s" else "string") for name in columns}
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    return dataset.cast_column("audio", datasets.Audio(decode=False))
