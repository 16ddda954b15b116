"""A saved folder: what is in it, and that it works where hf_speechft is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCTC,
    AutoProcessor,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    pipeline,
)

from hf_speechft import SpeechBertForCTC, SpeechBertModel, SpeechBertProcessor
from tests.stranger import MODEL_FILES, WITHOUT_HF_SPEECHFT

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["turn on the lights", "what time is it", "stop"]

# Run where hf_speechft cannot be imported; leaves the logits and what the pipeline says.
STRANGER = (
    WITHOUT_HF_SPEECHFT
    + """
import json
from pathlib import Path
import numpy as np
import torch
from transformers import (
    AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC, AutoProcessor, AutoTokenizer, pipeline)

torch.set_num_threads(1)
work = Path(sys.argv[1])
clip = np.load(work / "clip.npy")
said = {}
for name in sys.argv[2:]:
    folder = work / name
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "speechbert"
    model = AutoModelForCTC.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    batch = processor(audio=[clip, clip[:20_000]], text=["stop", "what time is it"], sampling_rate=16_000)
    with torch.no_grad():
        outputs = model(**batch)
        hidden = AutoModel.from_pretrained(folder, trust_remote_code=True)(
            batch["input_features"], batch["attention_mask"]).last_hidden_state
    torch.save([outputs.logits, outputs.loss, hidden, batch["labels"]], work / f"{name}.pt")
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    assert extractor.to_dict() == processor.feature_extractor.to_dict()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    recognise = pipeline("automatic-speech-recognition", model=str(folder), trust_remote_code=True, device="cpu")
    assert recognise.type == "ctc"
    said[name] = [recognise(clip.copy(), return_timestamps=kind) for kind in ("word", "char")]
    said[name].append(recognise(clip.copy(), chunk_length_s=1.0, stride_length_s=0.2, return_timestamps="word"))
    for made in (model, processor, extractor, tokenizer):
        assert type(made).__module__.startswith("transformers_modules."), type(made).__module__
    model.save_pretrained(work / "again" / name)
    processor.save_pretrained(work / "again" / name)
assert not [module for module in sys.modules if module.split(".")[0] == "hf_speechft"]
(work / "said.json").write_text(json.dumps(said))
"""
)


def make_checkpoint(folder, model):
    """A text checkpoint with a tokenizer, made here."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def make_text_model(kind):
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2Model(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=290, bos_token_id=0, eos_token_id=0))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(**sizes, vocab_size=290))


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(0)
    time_s = np.arange(48_000) / 16_000
    return (np.sin(2_000 * time_s**2) * rng.random(48_000)).astype(np.float32)


@pytest.fixture(scope="module")
def work(tmp_path_factory, clip):
    """A folder with two recognisers, `char` and `native`, that are not the same in anything."""
    work = tmp_path_factory.mktemp("work")
    np.save(work / "clip.npy", clip)
    for name, kind, options in [
        ("char", "bert", {"frontend": "conv1d", "subsampling": 4}),
        ("native", "gpt2", {"frontend": "rnn", "subsampling": 8, "attention": "bidirectional"}),
    ]:
        checkpoint = make_checkpoint(work / "checkpoint" / name, make_text_model(kind))
        processor = SpeechBertProcessor.from_text_pretrained(checkpoint, texts=TEXTS, vocabulary=name)
        model = SpeechBertForCTC.from_text_pretrained(checkpoint, processor=processor, **options)
        with torch.no_grad():  # large weights, so that the best unit changes from step to step
            model.head.weight.normal_(std=3.0)
            model.head.bias[processor.tokenizer.unk_token_id] = -1e4
            model.head.bias[processor.tokenizer.unit_ids["▁"]] = 8.0
        model.save_pretrained(work / name)
        processor.save_pretrained(work / name)
    return work


@pytest.fixture(scope="module")
def stranger(work):
    """What a process without hf_speechft made of both folders."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environment |= {
        "HF_MODULES_CACHE": str(work / "modules"),
        "HF_HOME": str(work / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(work), "char", "native"],
        capture_output=True,
        text=True,
        cwd=work,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads((work / "said.json").read_text())


every_vocabulary = pytest.mark.parametrize("name", ["char", "native"])


@every_vocabulary
def test_saved_folder_holds_exactly_the_expected_files(work, name):
    assert sorted(path.name for path in (work / name).iterdir() if path.name != "__pycache__") == sorted(MODEL_FILES)


@every_vocabulary
def test_saved_code_is_the_packages(work, name):
    for file in sorted(MODEL_FILES):
        if file.endswith(".py"):
            assert (work / name / file).read_bytes() == (ROOT / "hf_speechft" / "model" / file).read_bytes()


@every_vocabulary
def test_saved_json_names_every_auto_class(work, name):
    config = json.loads((work / name / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_speechbert.SpeechBertConfig",
        "AutoModelForCTC": "modeling_speechbert.SpeechBertForCTC",
        "AutoModel": "modeling_speechbert.SpeechBertModel",
    }
    assert config["architectures"] == ["SpeechBertForCTC"]
    processor = json.loads((work / name / "processor_config.json").read_text())
    assert processor["auto_map"]["AutoProcessor"] == "processing_speechbert.SpeechBertProcessor"
    assert str(work) not in json.dumps([config, processor])  # no path of this machine travels


@every_vocabulary
def test_stranger_reproduces_logits_exactly(work, stranger, clip, name):
    logits, loss, hidden, labels = torch.load(work / f"{name}.pt")
    model, processor = AutoModelForCTC.from_pretrained(work / name), AutoProcessor.from_pretrained(work / name)
    batch = processor(audio=[clip, clip[:20_000]], text=["stop", "what time is it"], sampling_rate=16_000)
    with torch.no_grad():
        outputs = model(**batch)
        expected = model.speechbert(batch["input_features"], batch["attention_mask"]).last_hidden_state
    assert torch.equal(logits, outputs.logits)
    assert torch.equal(loss, outputs.loss)
    assert torch.equal(hidden, expected)
    assert torch.equal(labels, batch["labels"])


@every_vocabulary
def test_stranger_saves_the_same_folder_again(work, stranger, name):
    again = work / "again" / name
    files = {path.name for path in again.iterdir()} - {"__pycache__"}
    # transformers gives remote classes that have a `generate` its GenerationMixin, which saves this file.
    assert files - {"generation_config.json"} == MODEL_FILES
    weights = load_file(work / name / "model.safetensors")
    for weight_name, weight in load_file(again / "model.safetensors").items():
        assert torch.equal(weight, weights[weight_name])


@every_vocabulary
def test_pipeline_with_the_package_says_what_it_says_without(work, stranger, clip, name):
    recognise = pipeline("automatic-speech-recognition", model=str(work / name), device="cpu")
    assert type(recognise.model) is SpeechBertForCTC
    said = [recognise(clip.copy(), return_timestamps=kind) for kind in ("word", "char")]
    said.append(recognise(clip.copy(), chunk_length_s=1.0, stride_length_s=0.2, return_timestamps="word"))
    assert json.loads(json.dumps(said)) == stranger[name]


@every_vocabulary
def test_pipeline_timestamps_spell_the_text_within_the_clip(work, stranger, clip, name):
    model, processor = AutoModelForCTC.from_pretrained(work / name), AutoProcessor.from_pretrained(work / name)
    batch = processor(audio=clip, sampling_rate=16_000)
    text = processor.batch_decode(model.generate(**batch))[0]
    words, chars, chunked = stranger[name]
    assert len(text.split()) > 1
    assert words["text"] == chars["text"] == text
    assert [chunk["text"] for chunk in words["chunks"]] == text.split()
    assert "".join(chunk["text"] for chunk in chars["chunks"]) == text
    assert [chunk["text"] for chunk in chunked["chunks"]] == chunked["text"].split()
    for result in (words, chars, chunked):
        times = [time for chunk in result["chunks"] for time in chunk["timestamp"]]
        assert times == sorted(times)
        assert times[0] >= 0.0
        assert times[-1] <= 3.0 + model.config.inputs_to_logits_ratio / 16_000


@every_vocabulary
def test_timestamps_are_steps_times_samples_per_step(work, stranger, clip, name):
    model, processor = AutoModelForCTC.from_pretrained(work / name), AutoProcessor.from_pretrained(work / name)
    ids = model.generate(**processor(audio=clip, sampling_rate=16_000))[0]
    offsets = processor.decode(ids, output_word_offsets=True).word_offsets
    step_s = {"char": 0.04, "native": 0.08}[name]
    for offset, chunk in zip(offsets, stranger[name][0]["chunks"], strict=True):
        assert chunk["timestamp"] == pytest.approx([offset["start_offset"] * step_s, offset["end_offset"] * step_s])


@every_vocabulary
def test_generate_with_pipeline_chunks_covers_the_whole_clip(work, stranger, name):
    chunked = stranger[name][2]
    assert chunked["chunks"][0]["timestamp"][0] < 1.0
    assert chunked["chunks"][-1]["timestamp"][1] > 2.0


@every_vocabulary
def test_auto_model_of_a_recogniser_has_its_weights(work, name):
    model, report = AutoModel.from_pretrained(work / name, output_loading_info=True)
    assert type(model) is SpeechBertModel
    assert not report["missing_keys"]
    weights = load_file(work / name / "model.safetensors")
    for weight_name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[f"speechbert.{weight_name}"])
