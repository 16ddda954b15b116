"""What transformers asks of each of its own processors, asked of SpeechBertProcessor."""

import json
import tempfile
import unittest
from pathlib import Path
from unittest.mock import patch

from transformers_tests.test_processing_common import ProcessorTesterMixin

from hf_speechft import SpeechBertFeatureExtractor, SpeechBertProcessor, SpeechBertTokenizer
from tests.compliance.model_tester import UNITS


class SpeechBertProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = SpeechBertProcessor
    text_input_name = "labels"

    @classmethod
    def _setup_feature_extractor(cls):
        return SpeechBertFeatureExtractor(feature_size=24)

    @classmethod
    def _setup_tokenizer(cls):
        with tempfile.TemporaryDirectory() as folder:
            vocab_file = Path(folder) / "vocab.json"
            vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}), encoding="utf-8")
            return SpeechBertTokenizer(str(vocab_file))

    # Saving writes `auto_map` onto a processor that is registered for remote code, which no stock processor is, and
    # loading leaves it out: the two tests compare such an object with its reloaded self.
    def test_processor_from_and_save_pretrained(self):
        with patch.object(SpeechBertProcessor, "_auto_class", None):
            super().test_processor_from_and_save_pretrained()

    def test_processor_from_and_save_pretrained_as_nested_dict(self):
        with patch.object(SpeechBertProcessor, "_auto_class", None):
            super().test_processor_from_and_save_pretrained_as_nested_dict()
