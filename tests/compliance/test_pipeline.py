"""The speech recognition pipeline as the mixin of transformers runs it: model and processor loaded from a folder.

transformers loads tiny models from the Hub; here `setUpClass` writes one. Its checks of the pipeline's output are not
in the source distribution; `SpeechRecognitionChecks` stands in their place.
"""

import json
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from transformers import AutomaticSpeechRecognitionPipeline
from transformers_tests import test_pipeline_mixin
from transformers_tests.test_pipeline_mixin import PipelineTesterMixin

import hf_speechft
from hf_speechft import SpeechBertFeatureExtractor, SpeechBertForCTC, SpeechBertTokenizer
from tests.compliance.model_tester import UNITS, SpeechBertModelTester

TASK = "automatic-speech-recognition"
RATE_HZ = 16_000


class SpeechRecognitionChecks:
    """What the mixin calls to make and to check a pipeline."""

    def get_test_pipeline(self, model, tokenizer, feature_extractor, processor=None, dtype="float32"):
        pipeline = AutomaticSpeechRecognitionPipeline(
            model=model, tokenizer=tokenizer, feature_extractor=feature_extractor, processor=processor, dtype=dtype
        )
        rng = np.random.default_rng(0)
        return pipeline, [rng.standard_normal(34_000), rng.standard_normal(14_000)]

    def run_pipeline_test(self, pipeline, examples):
        clip = examples[0]
        assert pipeline.type == "ctc"
        text = pipeline(clip)["text"]
        assert isinstance(text, str)
        assert text  # the model knows nothing yet, but noise gives units other than the blank

        striding = pipeline({"raw": clip, "stride": (0, 4_000), "sampling_rate": RATE_HZ})
        assert isinstance(striding["text"], str)
        assert len(striding["text"]) <= len(text)
        assert isinstance(pipeline(np.tile(clip, 3), chunk_length_s=1.5)["text"], str)

        for unit in ("char", "word"):
            output = pipeline(clip, return_timestamps=unit)
            assert output["text"] == text
            assert output["chunks"]
            times = [time for chunk in output["chunks"] for time in chunk["timestamp"]]
            assert times == sorted(times)
            assert 0 <= times[0] <= times[-1] <= len(clip) / RATE_HZ + 0.04  # a step is 40 ms


class SpeechBertPipelineTest(PipelineTesterMixin, unittest.TestCase):
    pipeline_model_mapping = {TASK: SpeechBertForCTC}

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        write_tiny_model(Path(folder.name) / "speechbert" / "SpeechBertForCTC")
        summary = {
            "tokenizer_classes": ["SpeechBertTokenizer"],
            "processor_classes": ["SpeechBertFeatureExtractor"],
            "model_classes": ["SpeechBertForCTC"],
        }
        patcher = patch.multiple(
            test_pipeline_mixin,
            TRANSFORMERS_TINY_MODEL_PATH=folder.name,
            tiny_model_summary={"SpeechBertForCTC": summary},
            transformers_module=SimpleNamespace(**{name: getattr(hf_speechft, name) for name in hf_speechft.__all__}),
            pipeline_test_mapping={TASK: {"test": f"{__name__}.{SpeechRecognitionChecks.__name__}"}},
            PROCESSOR_MAPPING_NAMES={"speechbert": "SpeechBertProcessor"},
        )
        patcher.start()
        cls.addClassCleanup(patcher.stop)


def write_tiny_model(folder):
    config = SpeechBertModelTester(None).get_config()
    folder.mkdir(parents=True)
    vocab_file = folder / "vocab.json"
    vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}), encoding="utf-8")
    tokenizer = SpeechBertTokenizer(str(vocab_file))
    extractor = SpeechBertFeatureExtractor(feature_size=config.num_mel_bins)
    hf_speechft.SpeechBertProcessor(extractor, tokenizer).save_pretrained(folder)
    SpeechBertForCTC(config).save_pretrained(folder)
