"""How long an audit of a large corpus takes: headers and bytes of all files, the sound of a sample.

Claim: the audit of 100,000 files takes less than 3 minutes on two cores. The files are hard links to a few hundred
short recordings, so that making them takes seconds; as each is opened and compared by content like any other, links
cost an audit what files do once they are in the page cache. Run from the project's root, on a machine that does
nothing else:

    python -m benchmarks.audit
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.measure import write_results
from hf_speechft.apps.audit import find_units
from hf_speechft.data.audit import audit_corpus
from hf_speechft.data.corpora import load_corpus

RATE_HZ = 16_000
RECORDINGS = 300
SPLITS = {"train": 0.9, "validation": 0.05, "test": 0.05}
SUFFIXES = ("flac", "wav")
SAMPLE = 500
NOTES = [
    f"Hard links to {RECORDINGS} recordings of noise of 0.5 to 2 s at 16 kHz, half of each kind of file (flac, wav), "
    "in the page cache; a disk adds its own time.",
    "Every recording is there hundreds of times, so that every file is hashed as a whole: the worst case for the "
    "search for duplicates.",
    f"The sound of {SAMPLE} utterances is decoded. Alignability is that of characters at 4x.",
    "One process; the cache of datasets was empty.",
]


def make_corpus(folder: Path, files: int) -> None:
    random = np.random.default_rng(0)
    recordings = []
    for number in range(RECORDINGS):
        recordings.append(folder / f"recording{number}.{SUFFIXES[number % len(SUFFIXES)]}")
        samples = 0.1 * random.standard_normal(round(random.uniform(0.5, 2) * RATE_HZ))
        soundfile.write(recordings[-1], samples, RATE_HZ, subtype="PCM_16")
    for split, share in SPLITS.items():
        (folder / split).mkdir()
        with (folder / split / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["file_name", "transcription", "speaker_id"])
            for number in range(round(files * share)):
                recording = recordings[number % RECORDINGS]
                name = f"{number}{recording.suffix}"
                os.link(recording, folder / split / name)
                rows.writerow([name, "turn on the light", f"{split}{number % 100}"])


def time_audit(folder: Path) -> list[dict]:
    start = time.perf_counter()
    corpus = load_corpus(str(folder), cache_dir=folder / "cache")
    headers_s = time.perf_counter() - start
    units, _ = find_units(None, 4, None)
    start = time.perf_counter()
    found = audit_corpus(corpus, units, sample=SAMPLE)
    rest_s = time.perf_counter() - start
    files = len(found.utterances)
    steps = {"headers": headers_s, "checks, hashes, sample": rest_s, "all": headers_s + rest_s}
    return [
        {"step": name, "files": files, "seconds": seconds, "files per second": files / seconds}
        for name, seconds in steps.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000, help="files in the corpus (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="where to write, if not to benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(Path(folder), arguments.files)
        rows = time_audit(Path(folder))
    write_results("audit", rows, NOTES, **({"folder": arguments.results} if arguments.results else {}))


if __name__ == "__main__":
    main()
