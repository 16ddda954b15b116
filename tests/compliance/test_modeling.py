"""What transformers asks of each of its own models, asked of SpeechBertModel and SpeechBertForCTC."""

import unittest

import torch
from transformers import BertConfig, GPT2Config
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

from hf_speechft import SpeechBertConfig, SpeechBertForCTC, SpeechBertModel

BACKBONES = {
    "bert": BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=64,
    ),
    "gpt2": GPT2Config(
        vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_inner=37, n_positions=64,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
}  # fmt: skip


class SpeechBertModelTester:
    """Tiny configurations and inputs, under the names that the mixins look for."""

    def __init__(self, parent, backbone="bert", frontend="conv1d"):
        self.parent = parent
        self.backbone = backbone
        self.frontend = frontend
        self.is_training = True
        self.batch_size = 13
        self.frames = 40
        self.num_mel_bins = 8
        self.subsampling = 4
        self.hidden_size = 32
        self.num_hidden_layers = 2
        self.num_attention_heads = 4
        self.vocab_size = 20
        self.seq_length = self.frames // self.subsampling  # steps: what the transformer sees
        self.encoder_seq_length = self.seq_length

    def get_config(self):
        return SpeechBertConfig(
            backbone_config=BACKBONES[self.backbone].to_dict(),
            vocab_size=self.vocab_size,
            num_mel_bins=self.num_mel_bins,
            frontend=self.frontend,
            subsampling=self.subsampling,
            frontend_dropout=0.0,
            head_dropout=0.0,
            apply_spec_augment=False,
        )

    def prepare_config_and_inputs_for_common(self):
        input_features = floats_tensor([self.batch_size, self.frames, self.num_mel_bins])
        attention_mask = torch.ones(self.batch_size, self.frames, dtype=torch.long)
        return self.get_config(), {"input_features": input_features, "attention_mask": attention_mask}


class SpeechBertModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SpeechBertForCTC, SpeechBertModel)
    test_resize_embeddings = False
    _is_composite = True

    def setUp(self):
        self.model_tester = SpeechBertModelTester(self)


class SpeechBertCausalModelTest(SpeechBertModelTest):
    def setUp(self):
        self.model_tester = SpeechBertModelTester(self, backbone="gpt2", frontend="rnn")
