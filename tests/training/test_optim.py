"""Two learning rates, weight decay and the schedules, against torch's own optimisers and schedulers."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig

from hf_speechft import SpeechBertConfig, SpeechBertForCTC
from hf_speechft.training.arguments import SpeechTrainingArguments
from hf_speechft.training.optim import group_parameters, hold_waiting_groups, step_schedule
from hf_speechft.training.trainer import SpeechTrainer


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return SpeechBertForCTC(SpeechBertConfig(backbone_config=BertConfig(**sizes, vocab_size=30), vocab_size=6))


def make_trainer(model, tmp_path, rows=24, **options):
    values = {"per_device_train_batch_size": 4, "bf16": False, "eval_strategy": "no", "save_strategy": "no"}
    values |= {"load_best_model_at_end": False, "output_dir": str(tmp_path), "disable_tqdm": True}
    return SpeechTrainer(model=model, args=SpeechTrainingArguments(**values | options), train_dataset=[{}] * rows)


def learning_rates(scheduler, optimizer, updates):
    """Learning rates of each update, the body's lower one first, as training would make them."""
    rates = []
    for _ in range(updates):
        rates.append(sorted(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        scheduler.step()
    return rates


def test_group_parameters_body_and_rest_have_their_learning_rates(model):
    groups = group_parameters(model, learning_rate=1e-4, new_learning_rate=1e-3, weight_decay=0.0, decayed=[])
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert set(rates) == set(model.parameters())
    body = set(model.speechbert.backbone.parameters())
    assert len(body) > 10
    assert {rates[parameter] for parameter in body} == {1e-4}
    assert {rates[parameter] for parameter in set(model.parameters()) - body} == {1e-3}


def test_group_parameters_frozen_ones_are_left_out(model):
    for parameter in model.speechbert.backbone.parameters():
        parameter.requires_grad = False
    groups = group_parameters(model, learning_rate=1e-4, new_learning_rate=1e-3, weight_decay=0.0, decayed=[])
    assert [group["lr"] for group in groups] == [1e-3]


def test_create_optimizer_decays_no_bias_and_no_norm(model, tmp_path):
    optimizer = make_trainer(model, tmp_path, weight_decay=0.01).create_optimizer()
    decay = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    for norm in norms:
        assert decay[norm.weight] == decay[norm.bias] == 0.0
    linears = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv1d))]
    for linear in linears:
        assert (decay[linear.weight], decay[linear.bias]) == (0.01, 0.0)
    assert len(norms) > 4
    assert len(linears) > 7
    assert {(group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {
        (rate, decay) for rate in (3e-4, 9e-4) for decay in (0.0, 0.01)
    }


def test_adamw_without_decay_matches_torch_adam(model, tmp_path):
    other = copy.deepcopy(model)
    optimizer = make_trainer(model, tmp_path, optim="adamw_torch", weight_decay=0.0).create_optimizer()
    body = list(other.speechbert.backbone.parameters())
    rest = [parameter for parameter in other.parameters() if not any(parameter is one for one in body)]
    adam = torch.optim.Adam([{"params": body, "lr": 3e-4}, {"params": rest, "lr": 9e-4}])
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for parameter, twin in zip(model.parameters(), other.parameters(), strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            twin.grad = parameter.grad.clone()
        optimizer.step()
        adam.step()
    for parameter, twin in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, twin)


def test_step_schedule_matches_torch_steplr_counted_in_epochs():
    updates_per_epoch, epochs = 6, 9
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]

    def make():
        return torch.optim.SGD(
            [{"params": [one], "lr": rate} for one, rate in zip(parameters, (1e-4, 1e-3), strict=True)]
        )

    by_epoch = make()
    reference = torch.optim.lr_scheduler.StepLR(by_epoch, step_size=2, gamma=0.1)
    expected = [rates for rates in learning_rates(reference, by_epoch, epochs) for _ in range(updates_per_epoch)]
    optimizer = make()
    schedule = step_schedule(optimizer, steps_per_decay=2 * updates_per_epoch, gamma=0.1)
    assert learning_rates(schedule, optimizer, epochs * updates_per_epoch) == expected


def test_step_schedule_of_less_than_one_update_raises():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="decay every 0 updates; --step_lr_epochs must span at least one"):
        step_schedule(optimizer, steps_per_decay=0, gamma=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"num_train_epochs": 5},
        {"max_steps": 30},  # wins over num_train_epochs, which keeps its default of 3
        {"num_train_epochs": 100, "max_steps": 30},
        {"num_train_epochs": 5, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"num_train_epochs": 5, "rows": 21},  # a last batch that is not full
    ],
    ids=["epochs", "steps", "both", "accumulation", "ragged"],
)
def test_create_scheduler_with_step_lr_decays_after_so_many_epochs(model, tmp_path, options):
    trainer = make_trainer(model, tmp_path, step_lr_epochs=2, step_lr_gamma=0.5, **options)
    updates_per_epoch = 6
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(num_training_steps=30)
    expected = [[rate * 0.5 ** (update // (2 * updates_per_epoch)) for rate in (3e-4, 9e-4)] for update in range(30)]
    made = learning_rates(scheduler, optimizer, 30)
    torch.testing.assert_close(torch.tensor(made), torch.tensor(expected))


def test_create_scheduler_with_step_lr_below_one_update_decays_at_each(model, tmp_path):
    trainer = make_trainer(model, tmp_path, step_lr_epochs=0.01)
    optimizer = trainer.create_optimizer()
    rates = learning_rates(trainer.create_scheduler(num_training_steps=3), optimizer, 3)
    assert [rate for rate, _ in rates] == pytest.approx([3e-4, 3e-5, 3e-6])


def test_create_scheduler_cosine_warms_up_and_falls_to_zero_for_both_rates(model, tmp_path):
    trainer = make_trainer(model, tmp_path, warmup_steps=0.1, max_steps=40)
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(num_training_steps=40)
    rates = torch.tensor(learning_rates(scheduler, optimizer, 41))  # (updates, groups)
    torch.testing.assert_close(rates[:, 1], 3 * rates[:, 0])
    steps = torch.arange(41.0)
    cosine = 3e-4 * 0.5 * (1 + torch.cos(torch.pi * (steps - 4) / 36))
    torch.testing.assert_close(rates[:, 0], torch.where(steps < 4, 3e-4 * steps / 4, cosine))


# Staged training


@pytest.fixture
def deep_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    return SpeechBertForCTC(SpeechBertConfig(backbone_config=BertConfig(**sizes, vocab_size=30), vocab_size=6))


def test_group_parameters_staged_layers_far_from_the_output_learn_slower(deep_model):
    groups = group_parameters(
        deep_model, learning_rate=1.0, new_learning_rate=5.0, weight_decay=0.0, decayed=[], staged=True
    )
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert set(rates) == set(deep_model.parameters())
    backbone = deep_model.speechbert.backbone
    for index, layer in enumerate(backbone.encoder.layer):
        assert {rates[parameter] for parameter in layer.parameters()} == {0.9 ** (2 - index)}
    assert {rates[parameter] for parameter in backbone.embeddings.parameters()} == {0.9**2}
    assert rates[deep_model.head.weight] == 5.0


def test_staged_body_stands_still_at_first_but_for_its_norms(deep_model, tmp_path):
    trainer = make_trainer(
        deep_model,
        tmp_path,
        rows=40,
        method="staged",
        lr_scheduler_type="constant",
        learning_rate=0.1,
        num_train_epochs=1,
    )
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    layer = deep_model.speechbert.backbone.encoder.layer[2]
    watched = {
        "waits": layer.attention.self.query.weight,
        "norm": layer.output.LayerNorm.weight,
        "head": deep_model.head.weight,
    }
    moved = {name: [] for name in watched}
    for _ in range(4):
        before = {name: parameter.detach().clone() for name, parameter in watched.items()}
        for parameter in deep_model.parameters():
            parameter.grad = torch.ones_like(parameter)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        for name, parameter in watched.items():
            moved[name].append(not torch.equal(parameter, before[name]))
    assert moved["waits"] == [False, False, True, True]  # a fifth of ten updates
    assert moved["norm"] == moved["head"] == [True] * 4


def test_staged_with_a_schedule_that_is_no_function_of_the_update_raises():
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "waits": True}], lr=0.1)
    with pytest.raises(ValueError, match="--method staged needs a schedule such as"):
        hold_waiting_groups(torch.optim.lr_scheduler.StepLR(optimizer, step_size=2), 10)
