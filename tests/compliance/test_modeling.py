"""What transformers asks of each of its own models, asked of SpeechBertModel and SpeechBertForCTC."""

import tempfile
import unittest
from unittest.mock import patch

from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers_tests.test_modeling_common import ModelTesterMixin

from hf_speechft import SpeechBertForCTC, SpeechBertModel
from tests.compliance.model_tester import SpeechBertModelTester


class SpeechBertModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (SpeechBertForCTC, SpeechBertModel)
    test_resize_embeddings = False  # audio has no vocabulary of inputs
    test_can_init_all_missing_weights_before_2023 = True  # without it: only files with a copyright line since 2023
    _is_composite = True

    def setUp(self):
        self.model_tester = SpeechBertModelTester(self)
        # The mixins tell a model with a loss from one without by the names in these tables.
        for names, model_class in (
            (MODEL_MAPPING_NAMES, SpeechBertModel),
            (MODEL_FOR_CTC_MAPPING_NAMES, SpeechBertForCTC),
        ):
            patcher = patch.dict(names, speechbert=model_class.__name__)
            patcher.start()
            self.addCleanup(patcher.stop)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=False)
        if return_labels and model_class is SpeechBertForCTC:
            inputs["labels"] = self.model_tester.prepare_labels()  # the mixin's are zeros: the blank
        return inputs

    @unittest.skip("The front-end takes the place of word embeddings; Wav2Vec2 and Parakeet skip this too")
    def test_model_get_set_embeddings(self):
        pass

    # The mixin's version looks for towers by name and skips audio models; Parakeet replaces it too.
    def test_sdpa_can_dispatch_composite_models(self):
        for model_class in self.all_model_classes:
            config, _ = self.model_tester.prepare_config_and_inputs_for_common()
            with tempfile.TemporaryDirectory() as folder:
                model_class(config).save_pretrained(folder)
                for asked, expected in ((None, "sdpa"), ("sdpa", "sdpa"), ("eager", "eager")):
                    options = {"attn_implementation": asked} if asked else {}
                    model = model_class.from_pretrained(folder, **options)
                    backbone = model.base_model.backbone
                    attentions = [module for module in backbone.modules() if hasattr(module, "config")]
                    assert len(attentions) > self.model_tester.num_hidden_layers
                    for module in (model, *attentions):
                        assert module.config._attn_implementation == expected


class SpeechBertCausalModelTest(SpeechBertModelTest):
    """The same with a decoder behind the other front-end."""

    test_can_init_all_missing_weights_before_2023 = False  # GPT-2 itself leaves its Conv1D weights as they are

    def setUp(self):
        super().setUp()
        self.model_tester = SpeechBertModelTester(self, backbone="gpt2", frontend="rnn")
