"""What a trained model says at each step of a test set: the input that the decoding benchmarks share."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from hf_speechft.apps.transcribe import load_model
from hf_speechft.data.audio import load_audio
from hf_speechft.data.corpora import load_corpus
from hf_speechft.data.filters import filter_corpus
from hf_speechft.model.frontend_speechbert import output_lengths
from hf_speechft.model.modeling_speechbert import SpeechBertForCTC
from hf_speechft.model.processing_speechbert import SpeechBertProcessor

BATCH = 8
RECIPE_SEED = 42  # the Trainer's default; another would give a demo corpus whose test sentences the model has heard

MADE_UP_STEPS_HZ = 12.5
MADE_UP_TOKENS_HZ = 3.6  # sub-words of English speech
RIVALS = 4


@dataclass(frozen=True)
class Emissions:
    """Natural log-probabilities of a split's utterances.

    Args:
        tokens: Vocabulary by id; the blank is the first.
        log_probs: `(utterances, steps, vocab)` float32, padded.
        lengths: `(utterances,)` steps of each.
        audio_s: Duration of all utterances together.
        references: What was said.
    """

    tokens: list[str]
    log_probs: np.ndarray
    lengths: np.ndarray
    audio_s: float
    references: list[str]

    def first(self, utterances: int | None) -> "Emissions":
        """Return the first so many utterances, all for `None`; the duration shrinks with the steps."""
        share = self.lengths[:utterances].sum() / self.lengths.sum()
        return replace(
            self,
            log_probs=self.log_probs[:utterances],
            lengths=self.lengths[:utterances],
            audio_s=float(self.audio_s * share),
            references=self.references[:utterances],
        )

    def one(self, utterance: int) -> "Emissions":
        """Return a single utterance, without padding."""
        steps = self.lengths[utterance]
        return replace(
            self,
            log_probs=self.log_probs[utterance : utterance + 1, :steps],
            lengths=self.lengths[utterance : utterance + 1],
            audio_s=float(self.audio_s * steps / self.lengths.sum()),
            references=self.references[utterance : utterance + 1],
        )


@dataclass(frozen=True)
class Recogniser:
    """A model, its processor, and a corpus that was normalised as its training transcripts were."""

    model: SpeechBertForCTC
    processor: SpeechBertProcessor
    corpus: dict[str, Dataset]

    @classmethod
    def load(cls, folder: str | Path, dataset: str | Path) -> "Recogniser":
        """Load the model of `folder` and the corpus that `dataset` names, cut as recipes cut it."""
        model, processor = load_model(str(folder), "cpu")
        corpus = load_corpus(str(dataset), normalizer=processor.tokenizer.text_normalizer, seed=RECIPE_SEED)
        return cls(model.eval(), processor, corpus)

    def texts(self, split: str = "train") -> list[str]:
        """Transcripts of a split."""
        return self.corpus[split]["text"][:]

    @torch.inference_mode()
    def emissions(self, split: str) -> Emissions:
        """Run the model over the utterances of a split for which it has positions, shortest first."""
        config = self.model.config
        max_steps = self.model.speechbert.max_steps
        longest_s = max_steps * config.inputs_to_logits_ratio / config.sampling_rate if max_steps else None
        kept, _ = filter_corpus(self.corpus[split], max_duration_s=longest_s, name=split)
        durations_s = kept["duration_s"][:]
        kept = kept.select(sorted(range(len(kept)), key=durations_s.__getitem__))
        rows: list[np.ndarray] = []
        for start in range(0, len(kept), BATCH):
            clips = [load_audio(clip, config.sampling_rate) for clip in kept[start : start + BATCH]["audio"]]
            inputs = self.processor(audio=clips, sampling_rate=config.sampling_rate)
            log_probs = self.model(**inputs).logits.float().log_softmax(dim=-1)  # (batch, steps, vocab)
            lengths = output_lengths(inputs["attention_mask"].sum(dim=-1), config.subsampling)
            rows += [row[:steps].numpy() for row, steps in zip(log_probs, lengths.tolist(), strict=True)]
        return Emissions(
            tokens=self.processor.tokenizer.convert_ids_to_tokens(list(range(config.vocab_size))),
            log_probs=pad(rows),
            lengths=np.array([len(row) for row in rows]),
            audio_s=sum(durations_s),
            references=kept["text"][:],
        )


def pad(rows: list[np.ndarray]) -> np.ndarray:
    """Stack `(steps, vocab)` arrays of different length; zeros follow the shorter ones."""
    padded = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), np.float32)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def make_emissions(tokens: list[str], token_ids: list[list[int]], references: list[str]) -> Emissions:
    """Make up what a CTC model with sub-words would say of sentences.

    Args:
        tokens: Vocabulary by id; the first two are the blank and the unknown token.
        token_ids: Each sentence in tokens.
        references: The sentences.
    """
    generator = np.random.default_rng(0)
    rivals = generator.integers(2, len(tokens), (len(tokens), RIVALS))  # what each token is confused with
    rows = [_make_steps(sentence, rivals, generator) for sentence in token_ids]
    lengths = np.array([len(row) for row in rows])
    return Emissions(tokens, pad(rows), lengths, float(lengths.sum() / MADE_UP_STEPS_HZ), references)


def _make_steps(token_ids: list[int], rivals: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Make log-probabilities as a trained CTC model gives them: blank nearly everywhere, each token at one step.

    At a token's step the token, its rivals and blank compete, so that about one in seven is misheard by greedy
    decoding; behind it blank and the token compete.

    Args:
        token_ids: What is said.
        rivals: `(vocab, rivals)` tokens that sound alike.
        generator: Source of randomness.

    Returns:
        `(steps, vocab)` float32.
    """
    steps = max(round(len(token_ids) / MADE_UP_TOKENS_HZ * MADE_UP_STEPS_HZ), 2 * len(token_ids))
    logits = generator.standard_normal((steps, len(rivals)))
    logits[:, 0] += 13.0
    # Every other step at most, so that equal neighbours have a blank between them.
    places = 2 * np.sort(generator.choice(steps // 2, len(token_ids), replace=False))
    for place, token_id in zip(places, token_ids, strict=True):
        logits[place, 0] = generator.normal(9.0, 1.5)
        logits[place, rivals[token_id]] = generator.normal(8.0, 1.5, rivals.shape[1])
        logits[place, token_id] = generator.normal(12.5, 1.5)
        logits[place + 1, token_id] = generator.normal(10.0, 1.5)
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
