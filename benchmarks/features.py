"""How fast sound becomes features, beside torchaudio, librosa and transformers' own extractors.

Claim: on one thread SpeechBertFeatureExtractor is at least as fast as a loop over `torchaudio.compliance.kaldi.fbank`
and at least four times as fast as librosa's log-mel with its default n_fft. Run from the project's root, on a machine
that does nothing else:

    python -m benchmarks.features
"""

import argparse
import statistics

import librosa
import numpy as np
import torch
import torchaudio.compliance.kaldi as kaldi
from transformers import (
    ParakeetFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Speech2TextFeatureExtractor,
    WhisperFeatureExtractor,
)

from benchmarks.measure import interleave, limit_threads, times_slower, write_results
from hf_speechft.model.feature_extraction_speechbert import SpeechBertFeatureExtractor

UTTERANCES = 16
UTTERANCE_S = 10
RATE_HZ = 16000

# Each candidate and the row of ours that computes the same kind of features.
COMPARED_WITH = {
    "SpeechBERT fbank": "SpeechBERT fbank",
    "SpeechBERT mfcc": "SpeechBERT mfcc",
    "SpeechBERT log_mel": "SpeechBERT log_mel",
    "torchaudio kaldi.fbank, loop": "SpeechBERT fbank",
    "torchaudio kaldi.mfcc, loop": "SpeechBERT mfcc",
    "librosa log-mel, same n_fft, loop": "SpeechBERT log_mel",
    "librosa log-mel, n_fft 2048, loop": "SpeechBERT log_mel",
    "transformers Speech2Text": "SpeechBERT fbank",
    "transformers SeamlessM4T": "SpeechBERT fbank",
    "transformers Whisper": "SpeechBERT log_mel",
    "transformers Parakeet": "SpeechBERT log_mel",
}
NOTES = [
    f"{UTTERANCES} utterances of {UTTERANCE_S} s at {RATE_HZ} Hz (modulated noise), 80 mels, 25 ms every 10 ms, one "
    "thread, float32 numpy arrays in.",
    "Median, minimum and maximum over interleaved rounds; the last column is the median over rounds of the time "
    "relative to the row named before it.",
    "SpeechBERT rows include checks for NaN, mean and variance normalisation, padding and the mask; the loops over "
    "torchaudio and librosa compute the features only.",
    "librosa with the same n_fft (512) computes what log_mel computes; n_fft 2048 is librosa's default, with the same "
    "hop and mels.",
    "mfcc has 13 coefficients of 23 mels in both rows.",
    "Whisper pads to the longest clip here, not to 30 s; SeamlessM4T has stride 1 (by default it stacks 2 frames).",
]


def make_utterances() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    time_s = np.arange(UTTERANCE_S * RATE_HZ) / RATE_HZ
    envelope = 0.1 * (0.1 + np.sin(2 * np.pi * 2 * time_s) ** 2)
    return [(generator.standard_normal(len(time_s)) * envelope).astype(np.float32) for _ in range(UTTERANCES)]


def make_candidates(utterances: list[np.ndarray]) -> dict:
    def extractor(instance, **options):
        return lambda: instance(utterances, sampling_rate=RATE_HZ, return_tensors="pt", **options)

    def kaldi_loop(function, **options):
        return lambda: [function(torch.from_numpy(clip)[None], **options) for clip in utterances]

    log_mel = SpeechBertFeatureExtractor(feature_type="log_mel")

    def librosa_loop(**options):
        options |= {"sr": RATE_HZ, "hop_length": log_mel.hop_length, "n_mels": log_mel.feature_size}
        return lambda: [np.log(librosa.feature.melspectrogram(y=clip, **options) + 1e-6) for clip in utterances]

    return {
        "SpeechBERT fbank": extractor(SpeechBertFeatureExtractor()),
        "SpeechBERT mfcc": extractor(SpeechBertFeatureExtractor(13, feature_type="mfcc")),
        "SpeechBERT log_mel": extractor(log_mel),
        "torchaudio kaldi.fbank, loop": kaldi_loop(kaldi.fbank, num_mel_bins=80),
        "torchaudio kaldi.mfcc, loop": kaldi_loop(kaldi.mfcc),
        "librosa log-mel, same n_fft, loop": librosa_loop(n_fft=log_mel.fft_length, win_length=log_mel.frame_length),
        "librosa log-mel, n_fft 2048, loop": librosa_loop(),
        "transformers Speech2Text": extractor(Speech2TextFeatureExtractor(), padding=True),
        "transformers SeamlessM4T": extractor(SeamlessM4TFeatureExtractor(stride=1), padding=True),
        "transformers Whisper": extractor(WhisperFeatureExtractor(), padding="longest", truncation=False),
        "transformers Parakeet": extractor(ParakeetFeatureExtractor()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: %(default)s)")
    rounds = parser.parse_args().rounds
    with limit_threads(1):
        seconds = interleave(make_candidates(make_utterances()), rounds)
        rows = [
            {
                "features": name,
                "median (ms)": statistics.median(times) * 1000,
                "min (ms)": min(times) * 1000,
                "max (ms)": max(times) * 1000,
                "audio seconds per second": UTTERANCES * UTTERANCE_S / statistics.median(times),
                "compared with": COMPARED_WITH[name],
                "times slower": times_slower(times, seconds[COMPARED_WITH[name]]),
            }
            for name, times in seconds.items()
        ]
        write_results("features", rows, NOTES, details={"seconds": seconds})


if __name__ == "__main__":
    main()
