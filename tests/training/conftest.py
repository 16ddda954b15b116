"""A text checkpoint and a corpus that are small enough to train on within a test.

Each letter of a transcript is a tone of its own, so that a transformer of 33,000 weights learns the corpus in seconds.
"""

import copy
import json
import logging
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)

RATE_HZ = 16_000
LETTERS = "abcd"
TONES_HZ = dict(zip(LETTERS, (400, 900, 1_800, 3_400), strict=True))
LETTER_SAMPLES = 3_200
UNITS = ["<pad>", "<unk>", "▁", "a", "b"]


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was():
    """A run changes what libraries print; other tests rely on it."""
    loggers = [transformers.utils.logging, datasets.utils.logging]
    levels = [one.get_verbosity() for one in loggers]
    own, root = logging.getLogger("hf_speechft"), logging.getLogger()
    own_level, handlers = own.level, copy.copy(root.handlers)
    yield
    for one, level in zip(loggers, levels, strict=True):
        one.set_verbosity(level)
    transformers.utils.logging.enable_progress_bar()
    own.setLevel(own_level)
    root.handlers[:] = handlers


def make_sound(text, noise):
    """A tone for each letter, silence for each space, `(samples,)`."""
    time_s = np.arange(LETTER_SAMPLES) / RATE_HZ
    shape = 0.5 * np.hanning(LETTER_SAMPLES)
    parts = [shape * np.sin(2 * np.pi * TONES_HZ.get(letter, 0) * time_s) for letter in text]
    sound = np.concatenate(parts)
    return (sound + 0.003 * noise.standard_normal(len(sound))).astype(np.float32)


def write_split(folder, clips):
    """Write an audio folder of (file name, waveform, transcript, speaker)."""
    folder.mkdir(parents=True)
    lines = ["file_name,transcription,speaker_id"]
    for name, sound, text, speaker in clips:
        soundfile.write(folder / name, sound, RATE_HZ)
        lines.append(f"{name},{text},{speaker}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def make_clips(split, count, seed):
    random = np.random.default_rng(seed)
    clips = []
    for index in range(count):
        words = ["".join(random.choice(list(LETTERS), random.integers(1, 3))) for _ in range(random.integers(1, 3))]
        text = " ".join(words)
        clips.append((f"{split}{index}.wav", make_sound(text, random), text, f"{split}-{index % 3}"))
    return clips


@pytest.fixture(scope="session")
def tools():
    """Functions of this file, for tests that make corpora of their own."""
    return {"make_sound": make_sound, "write_split": write_split, "make_clips": make_clips}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """An audio folder: 48, 8 and 8 utterances."""
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (split, count) in enumerate({"train": 48, "validation": 8, "test": 8}.items()):
        write_split(folder / split, make_clips(split, count, seed))
    return folder


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory):
    """A BERT with random weights and a word-piece tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "ab", "cd"]
    tokenizer = Tokenizer(models.WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(**sizes, vocab_size=len(tokens), max_position_embeddings=128)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def argv(corpus, text_checkpoint):
    """A function that writes the command line of a tiny run; options replace its values."""

    def write(output_dir: Path, **options: object) -> list[str]:
        values = {
            "model_name_or_path": text_checkpoint,
            "dataset": corpus,
            "output_dir": output_dir,
            "per_device_train_batch_size": 8,
            "disable_tqdm": True,
            "bf16": False,
        } | options
        arguments = []
        for name, value in values.items():
            arguments += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        return arguments

    return write


@pytest.fixture
def recogniser(tmp_path):
    """A recogniser with random weights of the units in `UNITS`, and its processor."""
    path = tmp_path / "units.json"
    path.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}))
    processor = SpeechBertProcessor(SpeechBertFeatureExtractor(), SpeechBertTokenizer(str(path)))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = SpeechBertConfig(backbone_config=BertConfig(**sizes), vocab_size=len(UNITS), initializer_range=0.5)
    return SpeechBertForCTC(config).eval(), processor
