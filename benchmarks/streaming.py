"""How soon text comes from a stream: what a step has to wait for, the work of each piece, and the speed of all.

Two causal text checkpoints' sizes with random weights, on one thread, which gets 10 s of speech in pieces of 80, 160
and 320 ms; beside them the whole recording at once. Run from the project's root, on a machine that does nothing else:

    python -m benchmarks.streaming
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig

from benchmarks.inference import CHAR_UNITS, RATE_HZ, UTTERANCE_S, load_utterances
from benchmarks.measure import interleave, limit_threads, write_results
from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)
from hf_speechft.decoding import StreamingRecognizer

PIECES_MS = (80, 160, 320)
SUBSAMPLINGS = (4, 8)
SMOLLM2_135M = LlamaConfig(
    hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1_536
)
BACKBONES = {"GPT-2 small": GPT2Config(), "SmolLM2-135M": SMOLLM2_135M}


def make_processor() -> SpeechBertProcessor:
    units = ["<pad>", "<unk>", "▁", "'", *"abcdefghijklmnopqrstuvwxyz", "-", "."]
    with tempfile.TemporaryDirectory() as folder:
        vocab_file = Path(folder) / "vocab.json"
        vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(units)}), encoding="utf-8")
        tokenizer = SpeechBertTokenizer(str(vocab_file))
    return SpeechBertProcessor(SpeechBertFeatureExtractor(normalize="running"), tokenizer)


def make_model(backbone: PreTrainedConfig, subsampling: int) -> SpeechBertForCTC:
    config = SpeechBertConfig(backbone_config=backbone, subsampling=subsampling, vocab_size=CHAR_UNITS)
    return SpeechBertForCTC(config).eval()


def recognise_pieces(
    model: SpeechBertForCTC, processor: SpeechBertProcessor, waveform: np.ndarray, piece_ms: int, seconds: list[float]
) -> Callable[[], None]:
    """Return what recognises the recording in pieces and appends the seconds that each took."""
    piece_samples = piece_ms * RATE_HZ // 1_000

    def recognise() -> None:
        recognizer = StreamingRecognizer(model, processor, sampling_rate=RATE_HZ)
        for start in range(0, len(waveform), piece_samples):
            begun = time.perf_counter()
            recognizer.accept(waveform[start : start + piece_samples])
            seconds.append(time.perf_counter() - begun)
        recognizer.finish()

    return recognise


def measure(waveform: np.ndarray, rounds: int) -> tuple[list[dict], dict]:
    """Return the table's rows and the seconds behind them."""
    processor, callables, described, piece_seconds = make_processor(), {}, {}, {}
    for backbone_name, backbone in BACKBONES.items():
        for subsampling in SUBSAMPLINGS:
            model = make_model(backbone, subsampling)
            waits_s = StreamingRecognizer(model, processor, sampling_rate=RATE_HZ).latency_s
            inputs = processor(audio=waveform, sampling_rate=RATE_HZ)
            size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
            for piece_ms in (*PIECES_MS, None):
                name = f"{backbone_name}, {subsampling}x, {piece_ms or 'whole'}"
                described[name] = (f"{backbone_name}, {subsampling}x", size, piece_ms, waits_s)
                if piece_ms is None:
                    callables[name] = lambda model=model, inputs=inputs: model.generate(**inputs)
                else:
                    piece_seconds[name] = []
                    callables[name] = recognise_pieces(model, processor, waveform, piece_ms, piece_seconds[name])
    seconds = interleave(callables, rounds)
    rows = [make_row(described[name], seconds[name], piece_seconds.get(name)) for name in callables]
    return rows, {"seconds": seconds, "piece_seconds": piece_seconds}


def make_row(described: tuple, seconds: list[float], piece_seconds: list[float] | None) -> dict[str, object]:
    model, size, piece_ms, waits_s = described
    row = {"model": model, "parameters (M)": size, "piece (ms)": "whole" if piece_ms is None else str(piece_ms)}
    if piece_seconds is None:
        late = {"work of a piece, median (ms)": "", "95 % (ms)": "", "text at most so late (ms)": ""}
    else:
        slow_ms = 1_000 * float(np.quantile(piece_seconds, 0.95))
        late = {
            "work of a piece, median (ms)": f"{1_000 * statistics.median(piece_seconds):.1f}",
            "95 % (ms)": f"{slow_ms:.1f}",
            "text at most so late (ms)": f"{piece_ms + 1_000 * waits_s + slow_ms:.0f}",
        }
    return row | late | {"audio seconds per second": UTTERANCE_S / statistics.median(seconds)}


def make_notes(audio: str, rounds: int, waits_ms: float, note: str | None) -> list[str]:
    return [
        f"{UTTERANCE_S} s of speech at {RATE_HZ} Hz: {audio}.",
        "From float32 samples to text, features included. float32, random weights, conv1d front-end, no look-ahead.",
        "Work of a piece: the time that `StreamingRecognizer.accept` takes, median and 95 % quantile over the pieces "
        f"of {rounds + 1} rounds, which were interleaved; the last column is the median of {rounds} rounds.",
        f"Text at most so late: after the start of the step that it comes from, of which the last sample needed comes "
        f"{waits_ms:.0f} ms later (a frame of features; `lookahead_ms` would come on top), then at most a piece until "
        "the samples are handed over, then the work, at its 95 % quantile.",
        "Whole: `generate` on the features of the whole recording, which are not timed.",
        *([note] if note else []),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--note", help="a sentence for the table, such as what else the machine did")
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    utterances, audio = load_utterances()
    audio = audio.split(",")[0].replace("utterances", "utterance")
    with limit_threads(arguments.threads), torch.inference_mode():
        rows, details = measure(utterances[0], arguments.rounds)
        waits_s = StreamingRecognizer(make_model(SMOLLM2_135M, 4), make_processor(), sampling_rate=RATE_HZ).latency_s
        notes = make_notes(audio, arguments.rounds, 1_000 * waits_s, arguments.note)
        folder = {} if arguments.output is None else {"folder": arguments.output}
        write_results("streaming", rows, notes, details, **folder)


if __name__ == "__main__":
    main()
