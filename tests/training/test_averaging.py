"""Averaging of checkpoints: which ones, their mean, and that the better of average and best is kept."""

from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig

from hf_speechft import SpeechBertConfig, SpeechBertForCTC
from hf_speechft.training.averaging import average_best, average_weights, best_checkpoints

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def make_recogniser(seed):
    torch.manual_seed(seed)
    return SpeechBertForCTC(SpeechBertConfig(backbone_config=BertConfig(vocab_size=40, **SMALL), num_mel_bins=8))


@pytest.fixture
def run(tmp_path):
    """A folder with the checkpoints of three evaluations of four, and the log."""
    wers = {10: 0.5, 20: 0.2, 30: 0.4, 40: 0.2}
    for step in (20, 30, 40):
        make_recogniser(step).save_pretrained(tmp_path / f"checkpoint-{step}")
    log = [{"step": step, "epoch": step / 10, "loss": 1.0} for step in wers]
    return tmp_path, log + [{"step": step, "epoch": step / 10, "eval_wer": wer} for step, wer in wers.items()]


class Evaluated:
    """What `average_best` needs of a trainer; its validation WER is what the test says."""

    def __init__(self, folder, log_history, wer, clean_epochs=0):
        self.args = SimpleNamespace(output_dir=str(folder), metric_for_best_model="wer", clean_epochs=clean_epochs)
        self.state = SimpleNamespace(log_history=log_history, best_metric=0.2, num_train_epochs=4)
        self.accelerator = SimpleNamespace(unwrap_model=lambda model: model)
        self.model = make_recogniser(40)
        self.wer = wer

    def predict(self, dataset, metric_key_prefix):
        return SimpleNamespace(metrics={f"{metric_key_prefix}_wer": self.wer})


def test_best_checkpoints_are_the_best_at_hand_later_first(run):
    folder, log = run
    assert [path.name for path in best_checkpoints(folder, log, "eval_wer", 2)] == ["checkpoint-40", "checkpoint-20"]
    assert [path.name for path in best_checkpoints(folder, log, "eval_wer", 9)][2:] == ["checkpoint-30"]


def test_average_weights_is_the_mean_of_each_weight(run):
    folder, _ = run
    mean = average_weights([folder / "checkpoint-20", folder / "checkpoint-40"])
    one, other = make_recogniser(20).state_dict(), make_recogniser(40).state_dict()
    assert mean.keys() == one.keys()
    for name, weight in mean.items():
        torch.testing.assert_close(weight, (one[name] + other[name]) / 2)


def test_average_best_gives_the_model_the_mean_weights(run):
    folder, log = run
    trainer = Evaluated(folder, log, wer=0.2)
    assert average_best(trainer, None, 2) == ["checkpoint-40", "checkpoint-20"]
    mean = average_weights([folder / "checkpoint-40", folder / "checkpoint-20"])
    for name, weight in trainer.model.state_dict().items():
        torch.testing.assert_close(weight, mean[name])


def test_average_best_worse_than_the_best_keeps_its_weights(run):
    folder, log = run
    trainer = Evaluated(folder, log, wer=0.3)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    assert average_best(trainer, None, 3) == []
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_average_best_takes_no_checkpoint_from_before_the_clean_epochs(run):
    folder, log = run
    assert average_best(Evaluated(folder, log, wer=0.2, clean_epochs=2), None, 3) == ["checkpoint-40", "checkpoint-30"]
    assert average_best(Evaluated(folder, log, wer=0.2, clean_epochs=1), None, 3) == []


@pytest.mark.parametrize(("count", "steps"), [(1, 3), (2, 0)])
def test_average_best_with_nothing_to_average_changes_nothing(run, count, steps):
    folder, log = run
    trainer = Evaluated(folder, log if steps else [], wer=0.0)
    assert average_best(trainer, None, count) == []
