"""What transformers asks of each of its own feature extractors, asked of SpeechBertFeatureExtractor."""

import unittest

import numpy as np
from transformers_tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin

from hf_speechft import SpeechBertFeatureExtractor


class SpeechBertFeatureExtractionTester:
    """Sizes and inputs, under the names that the mixin looks for."""

    def __init__(self, feature_type):
        self.feature_type = feature_type
        self.feature_size = 24
        self.batch_size = 7
        self.min_seq_length = 400
        self.max_seq_length = 2000
        self.seq_length_diff = (self.max_seq_length - self.min_seq_length) // (self.batch_size - 1)
        self.rng = np.random.default_rng(0)

    def prepare_feat_extract_dict(self):
        return {
            "feature_size": self.feature_size,
            "sampling_rate": 16_000,
            "padding_value": 0.0,
            "feature_type": self.feature_type,
            "return_attention_mask": True,
        }

    def prepare_inputs_for_common(self, equal_length=False, numpify=False):
        """Features of clips, each `(frames, mels)`, as lists or as arrays."""
        steps = [self.max_seq_length] * self.batch_size
        if not equal_length:
            steps = range(self.min_seq_length, self.max_seq_length, self.seq_length_diff)
        clips = [self.rng.random((frames, self.feature_size)) for frames in steps]
        return clips if numpify else [clip.tolist() for clip in clips]


class FbankExtractionTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = SpeechBertFeatureExtractor
    feature_type = "fbank"

    def setUp(self):
        self.feat_extract_tester = SpeechBertFeatureExtractionTester(self.feature_type)


class MfccExtractionTest(FbankExtractionTest):
    feature_type = "mfcc"


class LogMelExtractionTest(FbankExtractionTest):
    feature_type = "log_mel"
