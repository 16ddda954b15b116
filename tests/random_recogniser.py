"""A recogniser that learned nothing and hears many different units, for tests of what is done with its text."""

import json

import torch

from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)

UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyzäß"]


def make_recogniser(folder, backbone, **features):
    """A model on this text checkpoint's configuration, and its processor, whose vocabulary goes into the folder."""
    vocab_file = folder / "vocab.json"
    vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}), encoding="utf-8")
    torch.manual_seed(0)
    model = SpeechBertForCTC(SpeechBertConfig(backbone_config=backbone, vocab_size=len(UNITS))).eval()
    with torch.no_grad():
        model.head.weight.normal_()
        model.head.bias[1] = -1000.0  # never <unk>
    return model, SpeechBertProcessor(SpeechBertFeatureExtractor(**features), SpeechBertTokenizer(str(vocab_file)))
