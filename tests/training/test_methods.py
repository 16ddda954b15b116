"""Training methods: which weights learn, that LoRA is merged without a trace, and what the control keeps."""

import json
import sys

import pytest
import torch
from transformers import AutoModelForCTC, BertConfig, GPT2Config, LlamaConfig

from hf_speechft import SpeechBertConfig, SpeechBertForCTC
from hf_speechft.training.finetune import FineTuning, main
from hf_speechft.training.methods import apply_method, merge_lora
from hf_speechft.training.recipes import parse_arguments
from tests.training.interruption import InterruptAt

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "bert": BertConfig(**SIZES, vocab_size=30),
    "gpt2": GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=30, bos_token_id=0, eos_token_id=0),
    "llama": LlamaConfig(**SIZES, vocab_size=30),
}
every_family = pytest.mark.parametrize("family", sorted(FAMILIES))


def make_model(family="bert"):
    torch.manual_seed(0)
    return SpeechBertForCTC(SpeechBertConfig(backbone_config=FAMILIES[family], vocab_size=6, num_mel_bins=8))


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def new_parts(model):
    return {name for name, _ in model.named_parameters() if not name.startswith("speechbert.backbone.")}


@every_family
@pytest.mark.parametrize("method", ["full", "staged"])
def test_full_and_staged_let_every_weight_learn(family, method):
    model = make_model(family)
    apply_method(model, method)
    assert learning(model) == {name for name, _ in model.named_parameters()}


@every_family
def test_frozen_lets_front_end_and_head_learn(family):
    model = make_model(family)
    apply_method(model, "frozen")
    assert learning(model) == new_parts(model)


@pytest.mark.parametrize(("family", "norms"), [("bert", 2 * (1 + 2 * 2)), ("gpt2", 2 * (1 + 2 * 2)), ("llama", 5)])
def test_layernorm_lets_the_norms_learn_too(family, norms):
    model = make_model(family)
    apply_method(model, "layernorm")
    of_body = learning(model) - new_parts(model)
    assert len(of_body) == norms
    assert all("norm" in name.lower() or ".ln_" in name for name in of_body)


def test_random_draws_body_and_head_anew_and_keeps_the_front_end():
    model = make_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.manual_seed(7)
    apply_method(model, "random")
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, weight in after.items():
        is_drawn = name.startswith(("speechbert.backbone.", "head.")) and weight.ndim > 1
        assert torch.equal(weight, before[name]) != is_drawn, name
    assert {name: weight.std().item() for name, weight in after.items() if name.endswith("query.weight")} == {
        f"speechbert.backbone.encoder.layer.{index}.attention.self.query.weight": pytest.approx(0.02, rel=0.3)
        for index in range(2)
    }


@every_family
def test_lora_learns_low_rank_updates_and_merges_them(family):
    model = make_model(family)
    names = set(model.state_dict())
    apply_method(model, "lora")
    of_body = learning(model) - new_parts(model)
    assert of_body
    assert all(".lora_" in name for name in of_body)
    assert learning(model) >= new_parts(model)
    features = torch.randn(2, 40, 8)
    untouched = model.eval()(features).logits
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.3)
    learned = model(features).logits
    assert not torch.allclose(learned, untouched, atol=1e-2)
    merge_lora(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(features).logits, learned, atol=1e-4, rtol=0)


def test_lora_without_peft_raises_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install "hf_speechft\[lora\]"'):
        apply_method(make_model(), "lora")


@pytest.mark.parametrize("method", ["staged", "lora", "layernorm", "frozen", "random"])
def test_run_of_each_method_saves_a_plain_recogniser(argv, tmp_path, method):
    options = {"method": method, "num_train_epochs": 2, "average_checkpoints": 2, "subsampling": 2}
    main(argv(tmp_path / "run", **options))
    model, report = AutoModelForCTC.from_pretrained(tmp_path / "run", output_loading_info=True)
    assert not any(report.values()), report
    assert f"| training method | {method} |" in (tmp_path / "run" / "README.md").read_text()
    training = json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]
    assert training["parameters"] == model.num_parameters()
    of_body = {name: weight.numel() for name, weight in model.speechbert.backbone.named_parameters()}
    new = model.num_parameters() - sum(of_body.values())
    expected = {
        "staged": model.num_parameters(),
        "random": model.num_parameters(),
        "frozen": new,
        "layernorm": new + sum(count for name, count in of_body.items() if "LayerNorm" in name),
        "lora": new + 2 * 16 * (4 * (32 + 32) + 2 * (32 + 64)),  # two layers: 4 matrices of 32 x 32, 2 of 32 x 64
    }
    assert training["trainable_parameters"] == expected[method]


def test_run_of_lora_goes_on_where_it_was_killed(argv, tmp_path):
    options = {"method": "lora", "num_train_epochs": 2}
    main(argv(tmp_path / "whole", **options))
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **options)))
    run.trainer.add_callback(InterruptAt(8))  # in the second epoch of 6 updates
    with pytest.raises(KeyboardInterrupt):
        run.train_and_report()
    main(argv(tmp_path / "run", **options))
    whole, resumed = (AutoModelForCTC.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "run"))
    for name, weight in whole.items():
        assert torch.equal(resumed[name], weight), name


def test_random_of_a_recogniser_is_refused(argv, tmp_path):
    make_model().save_pretrained(tmp_path / "speechbert")
    run = FineTuning(parse_arguments(argv(tmp_path / "first")))
    run.processor.save_pretrained(tmp_path / "speechbert")
    with pytest.raises(SystemExit, match="--method random needs a text checkpoint; .* is a SpeechBERT"):
        main(argv(tmp_path / "run", model_name_or_path=tmp_path / "speechbert", method="random"))
