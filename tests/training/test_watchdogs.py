"""Each watchdog on logs, and on real runs that are made to fail."""

import math

import pytest
import torch
from transformers import AutoModelForCTC, TrainerCallback

from hf_speechft.training.arguments import SpeechTrainingArguments
from hf_speechft.training.checkpoints import whole_checkpoints
from hf_speechft.training.finetune import FineTuning, main
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.watchdogs import TrainingError, check_weights, find_divergence, is_nan, is_silent

UNSAVED = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "logging_steps": 1}


def losses(*values):
    return [{"loss": value, "grad_norm": 1.0} for value in values]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (losses(1.0, math.nan, math.nan, math.nan), True),
        (losses(math.inf, math.nan, math.inf), True),
        (losses(math.nan, math.nan), False),
        (losses(math.nan, math.nan, 1.0, math.nan), False),
        ([{"loss": 1.0, "grad_norm": math.nan}, {"eval_loss": 1.0}] * 3, True),
        ([{"loss": 1.0}] * 3, False),
    ],
)
def test_is_nan_needs_three_entries_in_a_row(log, expected):
    assert is_nan(log) is expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([4, 3, 2, 1, 1, 1, 1, 1, 1], None),
        ([4, 3, 2, 1, 1, 1, 1, 1, 3, 3, 3, 3], (1.0, 2.6)),
        ([4, 3, 2, 1, 1, 1, 1, 1, 4], None),  # one bad entry
        ([4, 1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.1, 0.1, 0.1, 0.1, 0.1], None),  # noise of what is learned
        ([1, 9, 9], None),
        ([4, 3, 2, 1, 1, 1, 1, 1, 3, math.nan, 3, 3, 3], (1.0, 2.6)),
    ],
)
def test_find_divergence_compares_means_of_five_entries(values, expected):
    found = find_divergence(losses(*values))
    assert found == (expected and pytest.approx(expected))


def test_is_silent_needs_three_evaluations_in_a_row():
    silent, heard = {"eval_empty": 1.0}, {"eval_empty": 0.9}
    assert is_silent([silent, {"loss": 1.0}, silent, silent])
    assert not is_silent([silent, silent])
    assert not is_silent([silent, silent, heard, silent])


class ChangeAt(TrainerCallback):
    """Calls a function with the model before an update."""

    def __init__(self, step, change):
        self.step, self.change = step, change

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if state.global_step + 1 == self.step:
            self.change(model)


def spoil_gradient(model):
    model.head.weight.grad.fill_(math.nan)


@torch.no_grad()
def forget(model):
    model.head.weight.normal_(std=30.0)


def test_run_whose_weights_become_nan_stops_and_keeps_the_good_checkpoint(argv, tmp_path):
    options = {"num_train_epochs": 3, "per_device_train_batch_size": 24, "save_total_limit": 1}
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **options)))
    run.trainer.add_callback(ChangeAt(3, spoil_gradient))
    with pytest.raises(
        TrainingError, match=r"no longer finite numbers.*lower --learning_rate.*checkpoint-2: "
    ) as error:
        run.train_and_report()
    (good,) = whole_checkpoints(tmp_path / "run")
    assert good.name == "checkpoint-2"
    assert f"--model_name_or_path {good} starts from its weights" in str(error.value)
    check_weights(AutoModelForCTC.from_pretrained(good), SpeechTrainingArguments(output_dir=str(tmp_path)))
    main(argv(tmp_path / "other", model_name_or_path=good, max_steps=1, beam_width=1))  # as the message says


def test_run_that_learns_much_too_fast_stops_with_advice(argv, tmp_path):
    options = UNSAVED | {"learning_rate": 1e30, "new_learning_rate": 1e30, "max_steps": 40, "warmup_steps": 0}
    with pytest.raises(SystemExit, match=r"error: the loss or its gradient was not a finite.*lower --learning_rate"):
        main(argv(tmp_path / "run", **options))


def test_run_that_diverges_is_advised_once_and_goes_on(argv, tmp_path, caplog):
    options = UNSAVED | {"learning_rate": 0, "new_learning_rate": 0, "max_steps": 24, "beam_width": 1}
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **options)))
    run.trainer.add_callback(ChangeAt(8, forget))
    assert run.train_and_report()["training"]["optimizer_steps"] == 24
    advice = [message for message in caplog.messages if "the training loss has risen from" in message]
    assert len(advice) == 1
    assert "What helps: lower --learning_rate" in advice[0]


@pytest.mark.parametrize("silent", [True, False])
def test_run_that_recognises_nothing_is_advised_once(argv, tmp_path, caplog, silent):
    options = {"learning_rate": 0, "new_learning_rate": 0, "num_train_epochs": 5, "beam_width": 1}
    run = FineTuning(parse_arguments(argv(tmp_path / "run", per_device_train_batch_size=48, **options)))
    with torch.no_grad():
        run.trainer.model.head.weight.normal_(std=3.0)
        if silent:
            run.trainer.model.head.weight.zero_()
            run.trainer.model.head.bias[run.trainer.model.config.pad_token_id] = 9.0
    run.train_and_report()
    evaluations = [entry["eval_empty"] for entry in run.trainer.state.log_history if "eval_empty" in entry]
    assert evaluations == [float(silent)] * 5
    advice = [message for message in caplog.messages if "nothing was recognised" in message]
    assert len(advice) == silent
    assert not advice or "--warmup_corpus" in advice[0]


def test_check_weights_names_the_weight_and_needs_no_checkpoint(tmp_path):
    model = torch.nn.Linear(2, 2)
    check_weights(model, SpeechTrainingArguments(output_dir=str(tmp_path)))
    with torch.no_grad():
        model.bias[1] = math.inf
    with pytest.raises(TrainingError, match=r"\(the first is bias\), and no checkpoint was made of them\. Start anew"):
        check_weights(model, SpeechTrainingArguments(output_dir=str(tmp_path)))
