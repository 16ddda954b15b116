"""`import hf_speechft`: cheap, and transformers' Auto classes and pipelines know us whatever is imported first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

import hf_speechft
from hf_speechft.registration import REGISTRATIONS, register_auto_classes

ROOT = Path(__file__).resolve().parents[1]

CHECK_ALL_REGISTERED = """
from transformers import AutoConfig, AutoModel, AutoModelForCTC, AutoFeatureExtractor, AutoTokenizer, AutoProcessor
from transformers import BertConfig, CONFIG_MAPPING, pipeline
import hf_speechft
assert CONFIG_MAPPING["speechbert"] is hf_speechft.SpeechBertConfig
config = AutoConfig.for_model("speechbert", backbone_config=BertConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, vocab_size=9))
assert type(config) is hf_speechft.SpeechBertConfig
assert type(AutoModel.from_config(config)) is hf_speechft.SpeechBertModel
assert type(AutoModelForCTC.from_config(config)) is hf_speechft.SpeechBertForCTC
import json, sys, tempfile
from pathlib import Path
folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
(folder / "v.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "a": 2}))
processor = hf_speechft.SpeechBertProcessor(
    hf_speechft.SpeechBertFeatureExtractor(), hf_speechft.SpeechBertTokenizer(str(folder / "v.json")))
processor.save_pretrained(folder)
config.save_pretrained(folder)
assert type(AutoFeatureExtractor.from_pretrained(folder)) is hf_speechft.SpeechBertFeatureExtractor
assert type(AutoTokenizer.from_pretrained(folder)) is hf_speechft.SpeechBertTokenizer
assert type(AutoProcessor.from_pretrained(folder)) is hf_speechft.SpeechBertProcessor
for name in ("Config", "Model", "ForCTC", "FeatureExtractor", "Tokenizer", "Processor"):
    assert getattr(hf_speechft, "SpeechBert" + name)._auto_class, name
recognise = pipeline("automatic-speech-recognition", model=AutoModelForCTC.from_config(config), device="cpu",
    tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor)
assert type(recognise).__module__ == "hf_speechft.decoding.pipeline"
assert not [finder for finder in sys.meta_path if type(finder).__name__ == "_RegisterWhenImported"]
"""


def run_python(script, *arguments):
    """Run a script in a fresh process that finds the package here."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_import_takes_neither_torch_nor_transformers():
    script = """
import sys
import hf_speechft
heavy = {"torch", "numpy", "transformers", "tokenizers", "datasets", "soundfile"} & sys.modules.keys()
assert not heavy, f"import hf_speechft imports {heavy}"
"""
    run_python(script)


@pytest.mark.parametrize(
    "first_lines",
    [
        "import hf_speechft",
        "from transformers import pipeline\nimport hf_speechft",
        "from transformers import AutoModelForCTC\nimport hf_speechft",
        "import transformers.models.bert.modeling_bert\nfrom hf_speechft.model.frontend_speechbert import FRONTENDS",
    ],
    ids=["package", "pipeline", "auto-class", "own-module"],
)
def test_auto_classes_and_pipelines_know_us_in_any_order(tmp_path, first_lines):
    run_python(first_lines + CHECK_ALL_REGISTERED, tmp_path)


def test_registrations_name_modules_of_transformers():
    for name in REGISTRATIONS:
        assert name in sys.modules or __import__(name)


def test_register_auto_classes_twice_changes_nothing():
    finders = list(sys.meta_path)
    register_auto_classes()
    assert sys.meta_path == finders
    assert transformers.CONFIG_MAPPING["speechbert"] is hf_speechft.SpeechBertConfig


def test_public_names_are_the_classes():
    for name in hf_speechft.__all__:
        assert getattr(hf_speechft, name).__name__ == name


def test_unknown_name_raises():
    with pytest.raises(AttributeError, match="module 'hf_speechft' has no attribute 'SpeechGpt'"):
        _ = hf_speechft.SpeechGpt


def test_mappings_of_the_pipelines_hold_the_models():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING

    assert MODEL_FOR_CTC_MAPPING[hf_speechft.SpeechBertConfig] is hf_speechft.SpeechBertForCTC
    assert transformers.AutoModel._model_mapping[hf_speechft.SpeechBertConfig] is hf_speechft.SpeechBertModel


def test_pipeline_of_speech_recognition_keeps_its_models_and_default():
    from transformers.pipelines import PIPELINE_REGISTRY

    _, task, _ = PIPELINE_REGISTRY.check_task("automatic-speech-recognition")
    assert transformers.AutoModelForCTC in task["pt"]
    assert transformers.AutoModelForSpeechSeq2Seq in task["pt"]
    assert task["default"]["model"][0] == "facebook/wav2vec2-base-960h"
    assert task["type"] == "multimodal"


@pytest.mark.parametrize("is_class", [False, True], ids=["name", "class"])
def test_register_pipeline_names_the_class_where_transformers_does(monkeypatch, is_class):
    from transformers.pipelines import PIPELINE_REGISTRY

    from hf_speechft.decoding.pipeline import CTCPipeline

    task = PIPELINE_REGISTRY.supported_tasks["automatic-speech-recognition"]
    monkeypatch.setitem(
        task, "impl", transformers.AutomaticSpeechRecognitionPipeline if is_class else "a.module.Class"
    )
    REGISTRATIONS["transformers.pipelines"]()
    assert task["impl"] == (CTCPipeline if is_class else "hf_speechft.decoding.pipeline.CTCPipeline")
