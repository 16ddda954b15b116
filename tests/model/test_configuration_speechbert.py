"""SpeechBertConfig: its fields, what it says of the text checkpoint, and its JSON."""

import json

import pytest
from transformers import (
    AlbertConfig,
    AutoConfig,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    RobertaConfig,
    T5Config,
)

from hf_speechft import SpeechBertConfig


@pytest.fixture
def gpt2_config():
    return GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, vocab_size=40, bos_token_id=0, eos_token_id=0)


def test_config_default_holds_bert():
    config = SpeechBertConfig()
    assert isinstance(config.backbone_config, BertConfig)
    assert (config.pad_token_id, config.frontend, config.subsampling, config.attention) == (
        0,
        "conv1d",
        4,
        "bidirectional",
    )


@pytest.mark.parametrize(
    ("backbone_config", "width", "layers", "heads"),
    [
        (BertConfig(hidden_size=48, num_hidden_layers=3, num_attention_heads=4), 48, 3, 4),
        (DistilBertConfig(dim=32, n_layers=2, n_heads=2), 32, 2, 2),
        (GPT2Config(n_embd=24, n_layer=5, n_head=3), 24, 5, 3),
    ],
    ids=["bert", "distilbert", "gpt2"],
)
def test_config_sizes_match_text_checkpoint(backbone_config, width, layers, heads):
    config = SpeechBertConfig(backbone_config=backbone_config)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (width, layers, heads)


@pytest.mark.parametrize(
    ("backbone_config", "sizes"),
    [
        (BertConfig(hidden_size=48), (48, 48, 48)),
        (AlbertConfig(hidden_size=48, embedding_size=8), (8, 48, 48)),
        (OPTConfig(hidden_size=48, word_embed_proj_dim=8), (8, 48, 8)),
        (T5Config(d_model=24), (24, 24, 24)),
    ],
    ids=["bert", "albert", "opt", "t5"],
)
def test_config_widths_before_inside_and_behind_the_transformer(backbone_config, sizes):
    config = SpeechBertConfig(backbone_config=backbone_config)
    assert (config.embedding_size, config.hidden_size, config.output_size) == sizes


@pytest.mark.parametrize(("subsampling", "hop_length", "samples"), [(2, 160, 320), (4, 160, 640), (8, 80, 640)])
def test_inputs_to_logits_ratio_is_samples_per_step(subsampling, hop_length, samples):
    assert SpeechBertConfig(subsampling=subsampling, hop_length=hop_length).inputs_to_logits_ratio == samples


@pytest.mark.parametrize(
    ("backbone_config", "attention"),
    [
        (BertConfig(), "bidirectional"),
        (RobertaConfig(), "bidirectional"),
        (DistilBertConfig(), "bidirectional"),
        (BertConfig(is_decoder=True), "causal"),
        (GPT2Config(), "causal"),
        (LlamaConfig(), "causal"),
    ],
    ids=["bert", "roberta", "distilbert", "bert-decoder", "gpt2", "llama"],
)
def test_attention_default_is_the_text_checkpoints_own(backbone_config, attention):
    assert SpeechBertConfig(backbone_config=backbone_config).attention == attention


def test_config_saved_and_loaded_round_trips(tmp_path, gpt2_config):
    config = SpeechBertConfig(
        backbone_config=gpt2_config,
        vocab_size=7,
        frontend="rnn",
        subsampling=8,
        attention="bidirectional",
        hop_length=80,
        mask_time_min_masks=3,
    )
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "speechbert"
    assert saved["backbone_config"]["model_type"] == "gpt2"
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is SpeechBertConfig
    assert type(loaded.backbone_config) is GPT2Config
    assert loaded.to_dict() | {"transformers_version": None, "_name_or_path": None} == config.to_dict() | {
        "transformers_version": None,
        "_name_or_path": None,
    }
    assert loaded.attention == "bidirectional"


def test_config_json_holds_every_field_of_text_checkpoint(gpt2_config):
    gpt2_config.resid_pdrop = 0.37
    fields = SpeechBertConfig(backbone_config=gpt2_config).to_dict()["backbone_config"]
    assert fields["resid_pdrop"] == 0.37
    assert fields["n_positions"] == 64


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_config_does_not_use_text_checkpoints_cache(attention, gpt2_config):
    assert SpeechBertConfig(backbone_config=gpt2_config, attention=attention).backbone_config.use_cache is False


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subsampling": 3}, "subsampling is 3; it needs to be one of 2, 4, 8"),
        ({"attention": "both"}, "attention is 'both'; it needs to be one of None, 'bidirectional', 'causal'"),
        ({"ctc_loss_reduction": "none"}, "ctc_loss_reduction is 'none'; it needs to be one of 'mean', 'sum'"),
        (
            {"lookahead_ms": 50, "attention": "causal"},
            "lookahead_ms is 50; it needs to be 0 or a multiple .* 40 ms here",
        ),
        ({"lookahead_ms": 80}, "lookahead_ms is 80, and attention is bidirectional"),
        ({"adapter_layers": 5}, "adapter_layers is 5; it needs to be one of 0, 1, 2, 3, 4"),
        ({"intermediate_ctc_weight": 1.0}, "intermediate_ctc_weight is 1.0; it needs to be a share from 0 to below 1"),
        (
            {
                "backbone_config": {"model_type": "opt", "hidden_size": 64, "word_embed_proj_dim": 32},
                "intermediate_ctc_weight": 0.3,
            },
            "needs layers as wide as the output; this opt has 64 and 32; leave it at 0",
        ),
        ({"frequency_warp": -0.1}, "frequency_warp is -0.1; it needs to be a share from 0 to below 1"),
        ({"frequency_warp": 1.0}, "frequency_warp is 1.0; it needs to be a share from 0 to below 1"),
        ({"position_shift": -1}, "position_shift is -1; it needs to be 0 or more steps"),
        ({"consistency_weight": -0.1}, "consistency_weight is -0.1; it needs to be a number from 0 up"),
        ({"mask_time_length": 0}, "mask_time_length is 0; it needs to be 1 or more"),
        ({"mask_feature_length": -2}, "mask_feature_length is -2; it needs to be 1 or more"),
        ({"backbone_config": {"model_type": "nosuch"}}, "backbone_config has model_type 'nosuch'"),
    ],
)
def test_config_unknown_value_raises(fields, message):
    with pytest.raises(ValueError, match=message):
        SpeechBertConfig(**fields)


def test_config_of_another_attention_leaves_the_given_one_alone(gpt2_config):
    before = gpt2_config.to_dict()
    SpeechBertConfig(backbone_config=gpt2_config, attention="bidirectional")
    assert gpt2_config.to_dict() == before
    assert SpeechBertConfig(backbone_config=gpt2_config).attention == "causal"


def test_fields_given_while_loading_are_checked_and_followed(gpt2_config, tmp_path):
    SpeechBertConfig(backbone_config=gpt2_config).save_pretrained(tmp_path)
    for load in (SpeechBertConfig.from_pretrained, AutoConfig.from_pretrained):
        for wrong in ({"subsampling": 3}, {"mask_time_length": 0}, {"frequency_warp": 2.0}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                load(tmp_path, **wrong)
        config, unused = load(tmp_path, attention="bidirectional", unknown=1, return_unused_kwargs=True)
        assert (config.backbone_config.is_causal, unused) == (False, {"unknown": 1})
        assert load(tmp_path, output_hidden_states=True).output_hidden_states
