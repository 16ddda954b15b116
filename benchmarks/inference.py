"""How fast audio becomes CTC units: SpeechBERT beside wav2vec2, Whisper and Parakeet of their published sizes.

Claim: at BERT-base size and 8x subsampling SpeechBERT is at least 7 times as fast as wav2vec2-base on the same
threads. Speed depends on sizes and not on what was learned, so all weights are random. Run from the project's root, on
a machine that does nothing else (5 GB; Parakeet takes most of it and most of the time):

    python -m benchmarks.inference
"""

import argparse
import csv
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import (
    BertConfig,
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from benchmarks.measure import interleave, limit_threads, times_slower, write_results
from hf_speechft import SpeechBertConfig, SpeechBertFeatureExtractor, SpeechBertForCTC
from hf_speechft.data.audio import load_audio

UTTERANCES = 4
UTTERANCE_S = 10
RATE_HZ = 16_000
SPEECH = Path(__file__).resolve().parents[2] / "shared" / "data" / "librispeech_4h" / "test"

REFERENCE = "wav2vec2-base"
CHAR_UNITS = 32
NATIVE_UNITS = 1_025  # as many word-pieces as Parakeet has; 8x is too coarse for characters
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1_536}
PROMPT_TOKENS = 4  # start, language, task, no timestamps
TOKENS_PER_S = 3.6  # English sub-words

Candidate = tuple[PreTrainedModel, Callable[[], object]]


def load_utterances() -> tuple[list[np.ndarray], str]:
    """Return the utterances, `(samples,)` each, all of one length, and what they are."""
    if not SPEECH.is_dir():
        generator = np.random.default_rng(0)
        noise = generator.standard_normal((UTTERANCES, UTTERANCE_S * RATE_HZ)).astype(np.float32)
        return list(0.1 * noise), "noise, because ../shared/data/librispeech_4h is absent"
    with (SPEECH / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["duration"]) >= UTTERANCE_S]
    speakers = {row["speaker_id"]: row for row in reversed(rows)}  # the first utterance of each
    chosen = [*speakers.values(), *rows][:UTTERANCES]
    waveforms = [load_audio(SPEECH / row["file_name"], RATE_HZ)[: UTTERANCE_S * RATE_HZ] for row in chosen]
    return (
        waveforms,
        f"the first {UTTERANCE_S} s of LibriSpeech utterances {', '.join(r['file_name'] for r in chosen)}",
    )


def speechbert(utterances: list[np.ndarray], backbone: dict, subsampling: int) -> Candidate:
    config = SpeechBertConfig(
        backbone_config=BertConfig(**backbone),
        subsampling=subsampling,
        vocab_size=NATIVE_UNITS if subsampling == 8 else CHAR_UNITS,
    )
    model, extractor = SpeechBertForCTC(config).eval(), SpeechBertFeatureExtractor()
    return model, lambda: model.generate(**extractor(utterances, sampling_rate=RATE_HZ, return_tensors="pt"))


def wav2vec2(utterances: list[np.ndarray]) -> Candidate:
    model, extractor = Wav2Vec2ForCTC(Wav2Vec2Config()).eval(), Wav2Vec2FeatureExtractor()

    def recognise() -> torch.Tensor:
        inputs = extractor(utterances, sampling_rate=RATE_HZ, return_tensors="pt", padding=True)
        return model(inputs["input_values"]).logits.argmax(dim=-1)

    return model, recognise


def parakeet(utterances: list[np.ndarray]) -> Candidate:
    encoder = ParakeetEncoderConfig(
        hidden_size=1_024, num_hidden_layers=24, num_attention_heads=8, intermediate_size=4_096, num_mel_bins=80
    )
    model = ParakeetForCTC(ParakeetCTCConfig(encoder_config=encoder, vocab_size=1_025, pad_token_id=1_024)).eval()
    extractor = ParakeetFeatureExtractor(feature_size=80)

    def recognise() -> torch.Tensor:
        inputs = extractor(utterances, sampling_rate=RATE_HZ, return_tensors="pt")
        return model(inputs["input_features"], attention_mask=inputs["attention_mask"]).logits.argmax(dim=-1)

    return model, recognise


def whisper(utterances: list[np.ndarray]) -> Candidate:
    config = WhisperConfig(
        vocab_size=51_865,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1_536,
        decoder_ffn_dim=1_536,
    )
    model, extractor = WhisperForConditionalGeneration(config).eval(), WhisperFeatureExtractor()
    tokens = round(TOKENS_PER_S * UTTERANCE_S)

    def recognise() -> torch.Tensor:
        inputs = extractor(utterances, sampling_rate=RATE_HZ, return_tensors="pt")
        encoded = model.model.encoder(inputs["input_features"])
        chosen, cache = [torch.ones(len(utterances), PROMPT_TOKENS, dtype=torch.long)], None
        for _ in range(tokens):
            step = model(decoder_input_ids=chosen[-1], encoder_outputs=encoded, past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            chosen.append(step.logits[:, -1:].argmax(dim=-1))
        return torch.cat(chosen[1:], dim=1)  # (batch, tokens)

    return model, recognise


def make_candidates(utterances: list[np.ndarray]) -> dict[str, Candidate]:
    return {
        "SpeechBERT, BERT-base, 4x": speechbert(utterances, {}, 4),
        "SpeechBERT, BERT-base, 8x": speechbert(utterances, {}, 8),
        "SpeechBERT, MiniLM-L6, 4x": speechbert(utterances, MINILM, 4),
        "SpeechBERT, MiniLM-L6, 8x": speechbert(utterances, MINILM, 8),
        REFERENCE: wav2vec2(utterances),
        "whisper-tiny": whisper(utterances),
        "parakeet-ctc-0.6b": parakeet(utterances),
    }


def make_notes(audio: str, rounds: int) -> list[str]:
    return [
        f"One batch of {UTTERANCES} clips of {UTTERANCE_S} s at {RATE_HZ} Hz: {audio}.",
        "From float32 samples to the best unit of each step, feature extraction included, decoding of the audio file "
        "and text not. float32, random weights, transformers' own classes, SDPA attention where the class has it.",
        f"Median, minimum and maximum of {rounds} interleaved rounds; the last column is the median over rounds of "
        f"the speed relative to {REFERENCE}.",
        f"Heads: {CHAR_UNITS} characters at 4x and for wav2vec2, {NATIVE_UNITS:,} word-pieces at 8x, 1,025 for "
        "Parakeet. Word embeddings are not part of SpeechBERT, hence fewer parameters than in the text checkpoint.",
        f"whisper-tiny encodes 30 s for each clip, as it always does, and greedily decodes {TOKENS_PER_S:g} tokens a "
        f"second of audio after a prompt of {PROMPT_TOKENS}, with its cache and without the extra work of "
        "`generate` (no end-of-text, no fallback).",
        "Speed only: with little speech to train on, the others are ahead in accuracy.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    utterances, audio = load_utterances()
    with limit_threads(arguments.threads), torch.inference_mode():
        candidates = make_candidates(utterances)
        seconds = interleave({name: recognise for name, (_, recognise) in candidates.items()}, arguments.rounds)
        audio_s = UTTERANCES * UTTERANCE_S
        rows = [
            {
                "model": name,
                "parameters (M)": sum(parameter.numel() for parameter in candidates[name][0].parameters()) / 1e6,
                "audio seconds per second": audio_s / statistics.median(times),
                "min": audio_s / max(times),
                "max": audio_s / min(times),
                f"times faster than {REFERENCE}": times_slower(seconds[REFERENCE], times),
            }
            for name, times in seconds.items()
        ]
        folder = {} if arguments.output is None else {"folder": arguments.output}
        write_results("inference", rows, make_notes(audio, arguments.rounds), {"seconds": seconds}, **folder)


if __name__ == "__main__":
    main()
