"""How much of a batch is padding, and how fast training is, with batches by seconds beside the Trainer's samplings.

Claims: at most 5 % of the seconds in batches are padding, and training takes in at least 1.3 times as many seconds of
speech per second as with the Trainer's random batches. Each sampling has batches of as many clips on average, and so
about as many updates in an epoch. A model of MiniLM's size with random weights learns from clips of AN4 for whole
epochs, one with each sampling in each round; padding is computed for LibriSpeech too. Run from the project's root, on
a machine that does nothing else (under 5 minutes):

    python -m benchmarks.batching
"""

import argparse
import csv
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler

from benchmarks.measure import interleave, limit_threads, times_slower, write_results
from hf_speechft.data.batching import SecondsBatchSampler, padding_share
from hf_speechft.training.finetune import FineTuning
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.trainer import SpeechTrainer

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "data"
CORPORA_S = {"an4": 48.0, "librispeech_4h": 160.0}  # seconds of a batch
TIMED = "an4"
WARM_UP_CLIPS = 32
SPEEDS = (0.9, 1.0, 1.1)
RANDOM, GROUPED, SECONDS = "random", "group_by_length", "batch_seconds"


def read_durations(corpus: str) -> list[float]:
    """Return seconds of each training clip of a corpus."""
    with (SPEECH / corpus / "train" / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return [float(row["duration"]) for row in csv.DictReader(file)]


def mean_clips(durations_s: list[float], batch_s: float) -> int:
    """Return how many clips the batches of so many seconds have on average."""
    return max(1, round(len(durations_s) / len(SecondsBatchSampler(durations_s, batch_s, find_epoch=lambda: 0))))


def cut(rows: list[int], clips: int) -> list[list[int]]:
    return [rows[start : start + clips] for start in range(0, len(rows), clips)]


def make_batches(durations_s: list[float], batch_s: float) -> dict[str, list[list[int]]]:
    """Return an epoch's batches by sampling."""
    clips = mean_clips(durations_s, batch_s)
    grouped = LengthGroupedSampler(clips, lengths=durations_s, generator=torch.Generator().manual_seed(0))
    shuffled = np.random.default_rng(0).permutation(len(durations_s)).tolist()
    return {
        RANDOM: cut(shuffled, clips),
        GROUPED: cut(list(grouped), clips),
        SECONDS: SecondsBatchSampler(durations_s, batch_s, find_epoch=lambda: 0).make_batches(0),
    }


def padding_rows() -> list[dict[str, Any]]:
    """Return each corpus's share of padding by sampling, at one speed and at three."""
    rows = []
    for corpus, batch_s in CORPORA_S.items():
        for speeds in ((1.0,), SPEEDS):
            durations_s = [seconds / speed for speed in speeds for seconds in read_durations(corpus)]
            batches = make_batches(durations_s, batch_s)
            shares = {f"{name}, padding (%)": 100 * padding_share(one, durations_s) for name, one in batches.items()}
            known = {"corpus": corpus, "speeds": len(speeds), "seconds a batch": batch_s}
            rows.append(known | {"clips a batch": mean_clips(durations_s, batch_s)} | shares)
    return rows


def make_trainer(sampling: str, clips: int, folder: Path) -> tuple[SpeechTrainer, Dataset]:
    """Return a Trainer that makes one epoch over clips of AN4 each time it is asked to, and those clips."""
    options: dict[str, Any] = {
        "dataset": SPEECH / TIMED,
        "output_dir": folder / sampling,
        "method": "random",
        "attn_implementation": "eager",  # as in recipes/an4.yaml
        "num_train_epochs": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    durations_s = read_durations(TIMED)
    if sampling == SECONDS:
        options |= {"batch_seconds": CORPORA_S[TIMED]}
    else:
        size = mean_clips(durations_s, CORPORA_S[TIMED])
        options |= {"train_sampling_strategy": sampling, "per_device_train_batch_size": size}
    run = FineTuning(parse_arguments([word for name, value in options.items() for word in (f"--{name}", str(value))]))
    train = run.splits["train"].shuffle(seed=0)
    run.trainer.train_dataset = train.select(range(WARM_UP_CLIPS))
    run.trainer.train()
    run.trainer.train_dataset = train.select(range(min(clips, len(train))))
    return run.trainer, run.trainer.train_dataset


def training_rows(rounds: int, clips: int) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Time whole epochs with each sampling."""
    with tempfile.TemporaryDirectory() as folder:
        made = {name: make_trainer(name, clips, Path(folder)) for name in (RANDOM, GROUPED, SECONDS)}
        seconds = interleave({name: trainer.train for name, (trainer, _) in made.items()}, rounds, warmups=0)
    speech_s = sum(made[SECONDS][1]["duration_s"])
    rows = [
        {
            "sampling": name,
            "updates an epoch": made[name][0].state.global_step,
            "audio seconds per second": speech_s / statistics.median(times),
            "min": speech_s / max(times),
            "max": speech_s / min(times),
            f"times faster than {RANDOM}": times_slower(seconds[RANDOM], times),
        }
        for name, times in seconds.items()
    ]
    return rows, seconds


def make_notes(rounds: int, clips: int, padding: list[dict[str, Any]]) -> list[str]:
    return [
        f"One epoch over {clips} training clips of AN4 at one speed with the Trainer: decoding the files, features, "
        "forward and backward pass and update, no evaluation. MiniLM with random weights, characters, conv1d, 4x; "
        "batches are made in the process that trains.",
        f"Median, minimum and maximum of {rounds} interleaved rounds; the last column is the median over rounds.",
        "Both samplings by clips have batches of as many clips as those by seconds have on average, hence about as "
        "many updates; random batches of that size take more memory.",
        "group_by_length is the Trainer's, as SpeechTrainer shuffles it.",
        *map(describe_padding, padding),
    ]


def describe_padding(row: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {row[f'{name}, padding (%)']:.1f} %" for name in (RANDOM, GROUPED, SECONDS))
    what = f"{row['corpus']} at {'3 speeds' if row['speeds'] > 1 else 'one speed'}"
    return (
        f"Padding, all of {what}, batches of {row['seconds a batch']:g} s or {row['clips a batch']} clips: {shares}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="timed epochs of each sampling (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=400, help="clips to learn from, of 755 (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")
    arguments = parser.parse_args()
    if not SPEECH.is_dir():
        parser.error(f"{SPEECH} is absent; this benchmark needs AN4 and LibriSpeech from there")
    padding = padding_rows()
    with limit_threads(arguments.threads):
        rows, seconds = training_rows(arguments.rounds, arguments.clips)
    folder = {} if arguments.output is None else {"folder": arguments.output}
    details = {"seconds": seconds, "padding": padding}
    write_results("batching", rows, make_notes(arguments.rounds, arguments.clips, padding), details, **folder)


if __name__ == "__main__":
    main()
