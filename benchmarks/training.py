"""How fast a model learns to recognise speech, and in how much memory: SpeechBERT beside wav2vec2.

Aim: at BERT-base size and 8x subsampling an update takes at most a sixth of the time and half of the memory of one
of wav2vec2-base under the recipe of transformers' CTC example, on a CPU, and on a GPU in bfloat16. What is reached on
a CPU is in the table; a GPU was not measured yet. Speed and memory depend on sizes and not on what was learned, so all
weights are random and the audio is noise, in batches of the lengths that real utterances have. Each model trains in a
process of its own, and the processes take turns: one update each a round. Run from the project's root, on a machine
that does nothing else (24 GB):

    python -m benchmarks.training

A GPU is used where there is one; its results are called training_gpu, and `--device cpu` leaves it alone.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, PreTrainedModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from benchmarks.inference import CHAR_UNITS, MINILM, NATIVE_UNITS, RATE_HZ, TOKENS_PER_S
from benchmarks.measure import interleave, limit_threads, resident_gb, times_slower, write_results
from hf_speechft import SpeechBertConfig, SpeechBertFeatureExtractor, SpeechBertForCTC
from hf_speechft.data import load_corpus
from hf_speechft.training.arguments import computes_in_bfloat16
from hf_speechft.training.dropout import draw_bytes
from hf_speechft.training.sampler import EpochSampler

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "data" / "librispeech_4h"
DURATIONS_S = np.linspace(2, 17, 1_000).tolist()  # where that is absent

REFERENCE = "wav2vec2-base"
CHARS_PER_S = 15  # English, spaces included; librispeech_4h has 14.6
LABEL = {"characters": (CHAR_UNITS, CHARS_PER_S), "word-pieces": (NATIVE_UNITS, TOKENS_PER_S)}
LEARNING_RATE = 3e-4
GRADIENT_NORM = 1.0  # the Trainer's
ROUNDS = {"cpu": 3, "cuda": 20}
CLIPS = {"cpu": 16, "cuda": 32}  # 16 in the commands that transformers gives for CTC on one GPU
# glibc gives blocks above so many bytes back to the system when they are freed; it would keep most of them, so that
# memory would depend on the order of allocations and all models at rest would not fit in it.
RETURNED_BYTES = 1_000_000
WAV2VEC2_DROPOUTS = ("attention_dropout", "activation_dropout", "feat_proj_dropout", "hidden_dropout", "final_dropout")

Batch = list[float]  # the duration of each clip in seconds
Inputs = Callable[[list[np.ndarray]], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Setup:
    """What all models of a run have in common."""

    device: str
    precision: str
    threads: int
    batches: list[Batch]  # the first is for warming up


@dataclass
class Trainee:
    """A model that learns, with its features and its kind of labels."""

    model: PreTrainedModel
    extract: Inputs
    labels: str
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        trained = [parameter for parameter in self.model.train().parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True)

    def update(self, waveforms: list[np.ndarray], labels: torch.Tensor, setup: Setup) -> None:
        """From waveforms `(samples,)` and labels `(batch, tokens)` to new weights, as the Trainer does it."""
        inputs = {name: tensor.to(setup.device) for name, tensor in self.extract(waveforms).items()}
        with torch.autocast(setup.device, torch.bfloat16, enabled=setup.precision == "bfloat16"):
            loss = self.model(**inputs, labels=labels.to(setup.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()


def speechbert(
    backbone: dict, subsampling: int, device: str, dropout: float = 0.1, attention_dropout: float = 0.0
) -> Trainee:
    """Make a SpeechBERT with the masks and attention, and unless given the dropout, that a run has by default."""
    labels = "word-pieces" if subsampling == 8 else "characters"  # 8x is too coarse for characters
    body = BertConfig(**backbone, hidden_dropout_prob=dropout, attention_probs_dropout_prob=attention_dropout)
    config = SpeechBertConfig(
        backbone_config=body,
        subsampling=subsampling,
        vocab_size=LABEL[labels][0],
        frontend_dropout=dropout,
        head_dropout=dropout,
    )
    extract = partial(SpeechBertFeatureExtractor(), sampling_rate=RATE_HZ, return_tensors="pt", device=device)
    model = SpeechBertForCTC(config).to(device)
    draw_bytes(model)  # as SpeechTrainer
    return Trainee(model, extract, labels)


def wav2vec2(device: str, gradient_checkpointing: bool = False) -> Trainee:
    """Make a wav2vec2-base with the defaults of transformers' run_speech_recognition_ctc.py."""
    config = Wav2Vec2Config(
        vocab_size=CHAR_UNITS,
        mask_time_prob=0.05,
        layerdrop=0.0,
        ctc_loss_reduction="mean",
        **dict.fromkeys(WAV2VEC2_DROPOUTS, 0.0),
    )
    model = Wav2Vec2ForCTC(config).to(device)
    model.freeze_feature_encoder()
    if gradient_checkpointing:
        model.gradient_checkpointing_enable()
    extract = partial(Wav2Vec2FeatureExtractor(), sampling_rate=RATE_HZ, return_tensors="pt", padding=True)
    return Trainee(model, extract, "characters")


TRAINEES = {
    "SpeechBERT, BERT-base, 8x": partial(speechbert, {}, 8),
    "SpeechBERT, BERT-base, 8x, no dropout": partial(speechbert, {}, 8, dropout=0.0),
    "SpeechBERT, BERT-base, 8x, attention dropout": partial(speechbert, {}, 8, attention_dropout=0.1),
    "SpeechBERT, BERT-base, 4x": partial(speechbert, {}, 4),
    "SpeechBERT, MiniLM-L6, 8x": partial(speechbert, MINILM, 8),
    "SpeechBERT, MiniLM-L6, 4x": partial(speechbert, MINILM, 4),
    REFERENCE: wav2vec2,
    f"{REFERENCE}, gradient checkpointing": partial(wav2vec2, gradient_checkpointing=True),
}


def draw_batches(clips: int, rounds: int) -> tuple[list[Batch], str]:
    """Return a short batch for warming up and one for each round, and whose lengths they have."""
    durations_s, source = DURATIONS_S, "spread evenly, because ../shared/data/librispeech_4h is absent"
    if SPEECH.is_dir():
        durations_s, source = load_corpus(SPEECH)["train"]["duration_s"][:], "of LibriSpeech utterances"
    sampler = EpochSampler(clips, lengths=durations_s, find_seed=lambda: 0)
    rows = itertools.cycle(sampler)
    batches = [[durations_s[row] for row in itertools.islice(rows, clips)] for _ in range(rounds)]
    return [[min(durations_s)], *batches], source


def make_batch(durations_s: Batch, labels: str, noise: np.ndarray) -> tuple[list[np.ndarray], torch.Tensor]:
    """Return waveforms `(samples,)` of noise and random labels `(batch, tokens)`, as many as the kind has a second."""
    units, rate = LABEL[labels]
    rows = [torch.randint(1, units, (round(rate * duration_s),)) for duration_s in durations_s]  # 0 is the blank
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    return [noise[: round(duration_s * RATE_HZ)] for duration_s in durations_s], padded


def train(connection: Connection, name: str, setup: Setup) -> None:
    """Be the process of one model: make an update whenever asked, at last tell the peak of memory."""
    torch.manual_seed(0)
    longest_s = max(itertools.chain(*setup.batches))
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(longest_s * RATE_HZ), dtype=np.float32)
    on_gpu = setup.device == "cuda"
    with limit_threads(setup.threads):
        before_gb = resident_gb()
        trainee = TRAINEES[name](setup.device)
        counts = [parameter.numel() for group in trainee.optimizer.param_groups for parameter in group["params"]]
        labels = f"{LABEL[trainee.labels][1]:g} {trainee.labels} a second"
        connection.send({"labels": labels, "trained parameters (M)": sum(counts) / 1e6})
        for batch in iter(connection.recv, None):
            trainee.update(*make_batch(batch, trainee.labels, noise), setup)
            if on_gpu:
                torch.cuda.synchronize()
            connection.send("done")
        connection.send(torch.cuda.max_memory_allocated() / 1e9 if on_gpu else resident_gb(peak=True) - before_gb)


class Worker:
    """The other end of a process in which `train` runs."""

    def __init__(self, name: str, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=train, args=(theirs, name, setup), name=name, daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is noticed here
        self.batches = iter(setup.batches)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()

    def update(self) -> None:
        """Let the model learn from the next batch."""
        self.connection.send(next(self.batches))
        self.receive()

    def peak_gb(self) -> float:
        """Let the process end, and tell how much memory the model took at most."""
        self.connection.send(None)
        return self.receive()

    def receive(self) -> Any:
        """Wait for what the process sends next: facts about its model, the end of an update, a peak."""
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            raise RuntimeError(
                f"the process of {self.process.name} ended with {code}; its error is above, or with -9 memory ran out "
                "and a smaller --batch_size helps"
            ) from None


def compare(setup: Setup) -> tuple[list[dict], dict[str, list[float]]]:
    """Train all models by turns; return the table's rows and the seconds of each round."""
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name, setup)) for name in TRAINEES}
        facts = {name: worker.receive() for name, worker in workers.items()}  # all started at once
        timed = setup.batches[1:]
        seconds = interleave({name: worker.update for name, worker in workers.items()}, len(timed), warmups=1)
        peaks_gb = {name: worker.peak_gb() for name, worker in workers.items()}
    rows = []
    for name, times in seconds.items():
        speeds = [sum(batch) / time_s for batch, time_s in zip(timed, times, strict=True)]
        rows.append(
            {
                "model": name,
                "precision": setup.precision,
                **facts[name],
                "audio seconds per second": statistics.median(speeds),
                "min": min(speeds),
                "max": max(speeds),
                f"times faster than {REFERENCE}": times_slower(seconds[REFERENCE], times),
                "peak memory (GB)": peaks_gb[name],
                f"of the memory of {REFERENCE}": peaks_gb[name] / peaks_gb[REFERENCE],
            }
        )
    return rows, seconds


def make_notes(setup: Setup, clips: int, source: str) -> list[str]:
    timed = setup.batches[1:]
    lengths = ", ".join(f"{sum(batch):.0f}" for batch in timed[:5])
    memory = "torch.cuda.max_memory_allocated"
    if setup.device == "cpu":
        memory = f"resident, less that after imports, freed blocks above {RETURNED_BYTES:,} bytes given back at once"
    return [
        f"`python -m benchmarks.training {' '.join(sys.argv[1:])}".rstrip() + f"`, on the {setup.device}.",
        f"An update: waveforms to features, forward, backward, gradients clipped to norm {GRADIENT_NORM:g}, fused "
        "AdamW. On a GPU SpeechBERT's features are computed there; wav2vec2's extractor computes on the CPU.",
        f"{len(timed)} interleaved rounds, of one batch of {clips} clips each, the same for all models, after an "
        "update of one short clip: speeds are the median, minimum and maximum of the rounds; the speed relative to "
        f"{REFERENCE} in the same precision is the median of the rounds' ratios.",
        f"Noise with the lengths {source}, in batches of like length, the longest first, as SpeechTrainer and "
        f"--group_by_length put them: {lengths}{' …' if len(timed) > 5 else ''} s of audio, padding not counted.",
        f"Random labels: {CHARS_PER_S} characters a second of {CHAR_UNITS} at 4x and for wav2vec2, {TOKENS_PER_S:g} "
        f"word-pieces a second of {NATIVE_UNITS:,} at 8x, whose 12.5 steps a second cannot hold characters.",
        f"Peak memory: {memory}, of a process that holds one model; weights, gradients and AdamW's two moments are "
        "16 bytes of it for each trained parameter in either precision. More clips in a batch lower the share of "
        "SpeechBERT.",
        "wav2vec2-base: defaults of Wav2Vec2Config and, as run_speech_recognition_ctc.py has them, no dropout nor "
        "LayerDrop, mask_time_prob 0.05, feature encoder frozen. Gradient checkpointing is off by default there and "
        "on in the commands that its README gives for CTC.",
        "SpeechBERT: as run_finetune.py trains it by default, with SpecAugment and dropout 0.1, but none of "
        "attention's weights; one row has no dropout, as wav2vec2 has none here, and one has that of attention too, "
        "which on a CPU keeps the weights.",
        "Random weights of the published sizes, float32 weights in both precisions, bfloat16 by autocast; SDPA "
        "attention for all. Speed and memory only: with little speech to train on, wav2vec2 is ahead in accuracy.",
    ]


def make_setups(arguments: argparse.Namespace, batches: list[Batch]) -> Iterator[Setup]:
    """Yield one setup in float32, and one in bfloat16 where the machine computes in it."""
    precisions = ["float32"] + ["bfloat16"] * computes_in_bfloat16(arguments.device == "cpu")
    for precision in precisions:
        yield Setup(arguments.device, precision, arguments.threads, batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, help="timed rounds (default: 3 on a CPU, 20 on a GPU)")
    parser.add_argument("--batch_size", type=int, help="clips in a batch (default: 16 on a CPU, 32 on a GPU)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")
    arguments = parser.parse_args()
    clips, rounds = arguments.batch_size or CLIPS[arguments.device], arguments.rounds or ROUNDS[arguments.device]
    batches, source = draw_batches(clips, rounds)
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(RETURNED_BYTES)  # read by the processes when they start
    rows, details = [], {"batches": batches[1:]}
    with limit_threads(arguments.threads):
        for setup in make_setups(arguments, batches):
            more, details[setup.precision] = compare(setup)
            rows += more
        name = "training" if arguments.device == "cpu" else "training_gpu"
        folder = {} if arguments.output is None else {"folder": arguments.output}
        write_results(name, rows, make_notes(setup, clips, source), details, **folder)


if __name__ == "__main__":
    main()
