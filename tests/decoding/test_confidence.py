import csv
import json

import numpy as np
import pytest
import torch
from transformers import BertConfig

from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)
from hf_speechft.data.audio import load_audio
from hf_speechft.decoding.confidence import number_words, word_confidences
from hf_speechft.decoding.decoder import CTCDecoder
from hf_speechft.decoding.units import read_units

UNITS = read_units(["<pad>", "|", "a", "b", "c"], 0)


def in_a_row(texts):
    """Token paths for texts over the characters of UNITS."""
    paths = [[" abc".index(character) + 1 for character in text] for text in texts]
    start = np.cumsum([0, *map(len, paths)])
    return np.array([token for path in paths for token in path], np.int32), start


def confidences_of(texts, probabilities, path=0):
    tokens, start = in_a_row(texts)
    _, fingerprints, first_word = number_words(tokens, start, *UNITS.flat)
    return word_confidences(path, np.log(probabilities), fingerprints, first_word).tolist()


def test_number_words_gives_each_token_its_word():
    tokens, start = in_a_row([" ab  c", "", "c"])
    word_of_token, fingerprints, first_word = number_words(tokens, start, *UNITS.flat)
    assert word_of_token.tolist() == [-1, 0, 0, -1, -1, 1, 0]
    assert first_word.tolist() == [0, 2, 2, 3]
    assert fingerprints[1] == fingerprints[2] != fingerprints[0]


def test_number_words_takes_differently_spelt_words_for_one():
    units = read_units(["<pad>", "▁a", "b", "▁ab"], 0)
    tokens, start = np.array([1, 2, 3], np.int32), np.array([0, 2, 3])
    _, fingerprints, _ = number_words(tokens, start, *units.flat)
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a b", "a b"], [1.0, 1.0]),
        (["a b", "a c"], [1.0, 0.75]),
        (["a b", "b"], [0.75, 1.0]),
        (["a b", "a c b"], [1.0, 1.0]),
        (["a b", ""], [0.75, 0.75]),
        (["a a", "a"], [0.75, 1.0]),
    ],
)
def test_word_confidences_are_the_mass_of_the_paths_that_agree(texts, expected):
    assert confidences_of(texts, [0.75, 0.25]) == pytest.approx(expected)


def test_word_confidences_normalise_scores():
    assert confidences_of(["a", "b", "c"], [0.06, 0.03, 0.01], path=1) == pytest.approx([0.3])


def load_digits(folder):
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [load_audio(folder / row["file_name"], 8_000) for row in rows], [
        row["transcription"].lower() for row in rows
    ]


def train_on_digits(folder, tmp_path):
    """A small recogniser of spoken digits, which hears about three in four right."""
    clips, texts = load_digits(folder)
    units = ["<pad>", "<unk>", "▁", *sorted(set("".join(texts)))]
    (tmp_path / "vocab.json").write_text(json.dumps({unit: index for index, unit in enumerate(units)}))
    extractor = SpeechBertFeatureExtractor(sampling_rate=8_000, feature_size=40)
    processor = SpeechBertProcessor(extractor, SpeechBertTokenizer(str(tmp_path / "vocab.json")))
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = SpeechBertConfig(
        backbone_config=BertConfig(**sizes),
        vocab_size=len(units),
        num_mel_bins=40,
        sampling_rate=8_000,
        hop_length=extractor.hop_length,
        subsampling=2,
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
    )
    model = SpeechBertForCTC(config).train()
    batches = [
        processor(audio=[clips[i] for i in chosen], text=[texts[i] for i in chosen], sampling_rate=8_000)
        for chosen in torch.randperm(len(clips)).split(16)
    ]
    epochs = 14
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * len(batches))
    for _ in range(epochs):
        for index in torch.randperm(len(batches)).tolist():
            model(**batches[index]).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.eval(), processor


@pytest.mark.slow
@pytest.mark.speech
def test_word_confidences_on_real_speech_rise_with_the_share_of_right_words(speech_folder, tmp_path):
    model, processor = train_on_digits(speech_folder / "fsdd" / "train", tmp_path)
    clips, references = load_digits(speech_folder / "fsdd" / "test")
    inputs = processor(audio=clips, sampling_rate=8_000)
    with torch.inference_mode():
        log_probs = model(**inputs).logits.log_softmax(dim=-1)
    lengths = model.step_lengths(inputs["input_features"], inputs["attention_mask"])
    confidence, is_right = [], []
    for (best,), reference in zip(
        CTCDecoder.from_processor(processor).decode(log_probs, lengths), references, strict=True
    ):
        confidence += [word.confidence for word in best.words]
        is_right += [word.text == reference for word in best.words]
    groups = np.array_split(np.argsort(confidence), 4)
    mean_confidence = np.array([np.array(confidence)[group].mean() for group in groups])
    share_right = np.array([np.array(is_right)[group].mean() for group in groups])
    assert 0.5 < np.mean(is_right) < 0.95  # neither a useless recogniser nor a perfect one
    assert (np.diff(share_right) > 0).all()
    assert np.abs(mean_confidence - share_right).max() < 0.2
