"""How fast one core turns files of speech into features, as they are and with all of the augmentation.

Aims: 400 seconds of audio a second and core without augmentation, 120 with all of it on every clip. Files are FLAC, or
Opus in librispeech_4h; decoding, augmentation, features and padding are what a data loader worker does in training.
Run from the project's root, on a machine that does nothing else:

    python -m benchmarks.dataloading
"""

import argparse
import itertools
import statistics
from pathlib import Path

import torch
from datasets import Dataset

from benchmarks.measure import interleave, limit_threads, times_slower, write_results
from hf_speechft import SpeechBertProcessor
from hf_speechft.data.augment import Augmentation, mark_augmented
from hf_speechft.data.collate import SpeechCollator
from hf_speechft.data.corpora import load_corpus
from hf_speechft.data.sounds import SoundFolder
from hf_speechft.training.arguments import ModelArguments
from hf_speechft.training.recogniser import find_checkpoint

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NOISES = SHARED / "noise_esc10" / "train"
CORPORA = ("an4", "librispeech_4h")
BATCH = 16
PLAIN, WORKERS = "as they are", "all of it, a worker for each core"


def augmentations(rate_hz: int) -> dict[str, Augmentation | None]:
    noises = SoundFolder(NOISES, rate_hz)
    return {
        PLAIN: None,
        "noise": Augmentation(noises, 1.0),
        "synthetic rooms": Augmentation(reverb_prob=1.0),
        "telephone band": Augmentation(telephone_prob=1.0),
        "gain": Augmentation(gain_db=6.0),
        "all of it": Augmentation(noises, 1.0, reverb_prob=1.0, gain_db=6.0, telephone_prob=1.0),
    }


def load(collator: SpeechCollator, rows: Dataset, workers: int) -> None:
    options = {"batch_size": BATCH, "collate_fn": collator, "num_workers": workers}
    for _ in torch.utils.data.DataLoader(rows, **options):
        pass


def measure(corpus: str, utterances: int, rounds: int, workers: int) -> list[dict]:
    train = load_corpus(SHARED / corpus)["train"]
    rows = mark_augmented(train.shuffle(seed=0).select(range(min(utterances, len(train)))).sort("duration_s"))
    processor = SpeechBertProcessor.from_text_pretrained(find_checkpoint(ModelArguments()), texts=train["text"][:])
    collators = {
        name: SpeechCollator(processor, augment)
        for name, augment in augmentations(processor.feature_extractor.sampling_rate).items()
    }
    candidates = {name: lambda collator=collator: load(collator, rows, 0) for name, collator in collators.items()}
    candidates[WORKERS] = lambda: load(collators["all of it"], rows, workers)
    seconds = interleave(candidates, rounds)
    audio_s = sum(rows["duration_s"])
    return [
        {
            "corpus": corpus,
            "augmentation": name,
            "workers": workers if name == WORKERS else 0,
            "audio seconds per second": audio_s / statistics.median(times),
            "audio hours per minute": audio_s / 60 / statistics.median(times),
            "times slower": times_slower(times, seconds[PLAIN]),
        }
        for name, times in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--utterances", type=int, default=200, help="of each corpus (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="data loader workers of the last row")
    options = parser.parse_args()
    notes = [
        f"{options.utterances} utterances of each training split in batches of {BATCH} of like length; fbank of 80 "
        "bins; one thread in each process; 0 workers: in the main process.",
        "Augmentation is drawn for every clip (probability 1); noises are those of noise_esc10, kept in memory.",
        "The last row starts its workers anew in each round, which takes a part of a second.",
    ]
    with limit_threads(1):
        measured = [measure(name, options.utterances, options.rounds, options.workers) for name in CORPORA]
        write_results("dataloading", list(itertools.chain(*measured)), notes)


if __name__ == "__main__":
    main()
