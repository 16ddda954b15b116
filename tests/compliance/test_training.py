"""transformers' overfitting test of its own models: here a tiny SpeechBertForCTC learns a batch by heart."""

import unittest

import torch
from transformers_tests.test_training_mixin import TrainingTesterMixin

from hf_speechft import SpeechBertForCTC
from tests.compliance.model_tester import SpeechBertModelTester

STEPS_PER_TOKEN = 2


class SpokenTokensModel(SpeechBertForCTC):
    """A recogniser with the surface of a language model, the only kind that the mixin can train so far.

    Each token has a sound of its own, eight frames long. What `generate` returns is not continued from the prompt but
    recognised from the sound of the batch.
    """

    def forward(self, input_ids, labels):
        config = self.config
        generator = torch.Generator().manual_seed(0)
        frames_per_token = STEPS_PER_TOKEN * config.subsampling
        sounds = torch.randn(config.vocab_size, frames_per_token, config.num_mel_bins, generator=generator)
        self.heard = sounds[input_ids].flatten(1, 2)  # (batch, frames, mels)
        return super().forward(self.heard, labels=labels)

    def generate(self, prompt_ids, **kwargs):
        logits = super().forward(self.heard[: len(prompt_ids)]).logits
        steps = logits.argmax(dim=-1).unique_consecutive(dim=-1)  # (1, steps)
        return steps[steps != self.config.pad_token_id][None]  # (1, tokens)


class SpeechBertTrainingTest(TrainingTesterMixin, unittest.TestCase):
    all_model_classes = (SpokenTokensModel,)
    model_tester = None
    training_overfit_seq_length = 16

    def setUp(self):
        self.model_tester = SpeechBertModelTester(self)

    def _get_model_modality(self):
        return "text"


class SpeechBertCausalTrainingTest(SpeechBertTrainingTest):
    def setUp(self):
        self.model_tester = SpeechBertModelTester(self, backbone="gpt2", frontend="rnn")
