"""Corpora for tests of the audit: a clean one, and the same with planted flaws."""

import csv

import numpy as np
import soundfile

from hf_speechft.data.findings import Utterance

RATE_HZ = 16_000
SPLITS = {"train": 12, "validation": 4, "test": 4}
TEXTS = ("turn the light on", "turn the light off", "open the big window", "close the small door")


def utterance(text="turn on", duration_s=1.0, split="train", row=0, speaker_id="s", utterance_id=None):
    """A row with defaults."""
    return Utterance(split, row, utterance_id or f"{split}{row}.wav", text, speaker_id, duration_s)


def sound(duration_s=1.5, seed=0, level=0.3):
    """Seeded noise that swells and fades, with a pause of 0.1 s at each edge; float32 (samples,)."""
    random = np.random.default_rng(seed)
    samples = round(duration_s * RATE_HZ)
    edge = np.minimum(round(0.1 * RATE_HZ), samples // 4)
    swell = 0.6 + 0.4 * np.sin(np.arange(samples) / RATE_HZ * 2 * np.pi * 3)
    noise = np.clip(random.standard_normal(samples) / 4, -1, 1) * swell * level
    noise[:edge] = noise[samples - edge :] = 0
    return noise.astype(np.float32)


class Corpus:
    """An audio folder of 20 clean clips; tests plant flaws before they `write` it."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = {}
        seed = 0
        for split, count in SPLITS.items():
            for number in range(count):
                seed += 1
                text = TEXTS[number % len(TEXTS)]
                speaker = f"{split}-{number % 2}"
                duration_s = len(text) / 13 * (1 + 0.02 * (seed % 5))
                self.rows[f"{split}{number}.wav"] = [split, text, speaker, sound(duration_s, seed)]

    def set(self, name, *, text=None, speaker=None, samples=None):
        """Change one utterance."""
        split, old_text, old_speaker, old_samples = self.rows[name]
        self.rows[name] = [
            split,
            old_text if text is None else text,
            old_speaker if speaker is None else speaker,
            old_samples if samples is None else samples,
        ]

    def write(self):
        """Write the files and give the folder's path."""
        for split in SPLITS:
            folder = self.folder / split
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(["file_name", "transcription", "speaker_id"])
                for name, (home, text, speaker, samples) in self.rows.items():
                    if home == split:
                        table.writerow([name, text, speaker])
                        soundfile.write(folder / name, samples, RATE_HZ)
        return self.folder
