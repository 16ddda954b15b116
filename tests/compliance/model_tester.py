"""Tiny SpeechBERT models and what goes into them, for the mixins of transformers."""

import torch
from transformers import BertConfig, GPT2Config
from transformers_tests.test_modeling_common import floats_tensor

from hf_speechft import SpeechBertConfig

UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
HIDDEN_SIZE = 32
LAYERS = 2
HEADS = 4
POSITIONS = 64
BACKBONES = {
    "bert": BertConfig(
        vocab_size=40,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=37,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=POSITIONS,
    ),
    "gpt2": GPT2Config(
        vocab_size=40,
        n_embd=HIDDEN_SIZE,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=37,
        n_positions=POSITIONS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    ),
}


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
        self.hidden_size = HIDDEN_SIZE
        self.num_hidden_layers = LAYERS
        self.num_attention_heads = HEADS
        self.vocab_size = len(UNITS)
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

    def prepare_labels(self):
        """Units of which no two neighbours are equal, so that half the steps are enough."""
        labels = torch.arange(self.seq_length // 2) % (self.vocab_size - 1) + 1
        return labels.expand(self.batch_size, -1)
