"""What transformers asks of each of its own configurations, asked of SpeechBertConfig."""

import unittest

from transformers import GPT2Config
from transformers_tests.test_configuration_common import ConfigTester

from hf_speechft import SpeechBertConfig

PROPERTIES = ["hidden_size", "num_attention_heads", "num_hidden_layers", "inputs_to_logits_ratio"]


class SpeechBertConfigTest(unittest.TestCase):
    def make_tester(self, **options):
        return ConfigTester(self, config_class=SpeechBertConfig, common_properties=list(PROPERTIES), **options)

    def test_config(self):
        self.make_tester(vocab_size=37, subsampling=8, frontend="rnn").run_common_tests()

    def test_config_with_causal_backbone(self):
        tester = self.make_tester(backbone_config=GPT2Config(n_embd=32, n_layer=2, n_head=4).to_dict())
        tester.create_and_test_config_common_properties()
        tester.create_and_test_config_to_json_file()
        tester.create_and_test_config_from_and_save_pretrained()
        tester.create_and_test_config_from_and_save_pretrained_subfolder()
        tester.create_and_test_config_from_and_save_pretrained_composite()
        tester.create_and_test_config_with_num_labels()
        tester.check_config_can_be_init_without_params()

    def test_config_with_attention_turned(self):
        """A direction that the text checkpoint was not trained with changes the backbone's own configuration."""
        tester = self.make_tester(attention="causal")
        tester.create_and_test_config_from_and_save_pretrained()
        tester.create_and_test_config_from_and_save_pretrained_composite()
