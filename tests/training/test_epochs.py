"""Epochs: what the collator and the model hear of which epoch it is, and of clean ones at the end."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerState

from hf_speechft import SpeechBertForCTC
from hf_speechft.data.augment import Augmentation
from hf_speechft.model import modeling_speechbert
from hf_speechft.training.epochs import EpochCallback, unmasked
from hf_speechft.training.finetune import FineTuning, main
from hf_speechft.training.recipes import parse_arguments
from tests.training.interruption import InterruptAt, check_same_weights

AUGMENTED = {"speed_factors": [0.9, 1.0], "gain_db": 6.0, "mask_time_prob": 0.3, "frequency_warp": 0.1}
AUGMENTED |= {"consistency_weight": 0.2}


@pytest.mark.parametrize(
    ("epoch", "clean_epochs", "expected"),
    [
        (None, 0, (0, False)),
        (None, 4, (0, True)),
        (1.0, 3, (1, True)),
        (1.75, 2, (1, False)),
        (2.0, 2, (2, True)),
        (3.9, 0, (3, False)),
    ],
)
def test_epoch_callback_counts_whole_epochs_and_knows_the_last(epoch, clean_epochs, expected):
    heard = []
    collator = SimpleNamespace(set_epoch=lambda number, is_clean: heard.append((number, is_clean)))
    state = TrainerState(epoch=epoch, num_train_epochs=4)
    EpochCallback(collator).on_epoch_begin(SimpleNamespace(clean_epochs=clean_epochs), state, None)
    assert heard == [expected]


def test_unmasked_model_trains_on_its_features_once(argv, tmp_path, monkeypatch):
    model = FineTuning(parse_arguments(argv(tmp_path / "run", **AUGMENTED))).trainer.model.train()
    passes = []
    body = type(model.speechbert.backbone).forward
    monkeypatch.setattr(
        type(model.speechbert.backbone),
        "forward",
        lambda *args, **options: passes.append(len(options["inputs_embeds"])) or body(*args, **options),
    )
    for name in ("warp_frequencies", "mask_features"):
        monkeypatch.setattr(modeling_speechbert, name, lambda *args: pytest.fail("features were changed"))
    before = model.config.to_dict()
    features, labels = torch.randn(2, 100, 80), torch.tensor([[3, 4], [4, 3]])
    with unmasked(model.config):
        model(features, labels=labels)
    assert passes == [2]
    assert model.config.to_dict() == before
    with pytest.raises(pytest.fail.Exception):
        model(features, labels=labels)


def test_run_augments_nothing_in_its_last_epochs(argv, tmp_path, monkeypatch):
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **AUGMENTED, num_train_epochs=3, clean_epochs=1)))
    masked, heard = [], []
    forward, augment = SpeechBertForCTC.forward, Augmentation.__call__

    def note_forward(model, *args, **options):
        if model.training:
            masked.append(model.config.apply_spec_augment and model.config.consistency_weight > 0)
        return forward(model, *args, **options)

    def note_augmented(augmentation, *args):
        heard.append(int(run.trainer.state.epoch or 0))
        return augment(augmentation, *args)

    monkeypatch.setattr(SpeechBertForCTC, "forward", note_forward)
    monkeypatch.setattr(Augmentation, "__call__", note_augmented)
    run.trainer.train()
    assert masked == [True] * 24 + [False] * 12
    assert heard == [0] * 96 + [1] * 96
    checkpoint = sorted((tmp_path / "run").glob("checkpoint-*"))[-1]
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["apply_spec_augment"]
    assert config["consistency_weight"] == 0.2


def test_run_interrupted_in_a_clean_epoch_is_the_run_that_was_not(argv, tmp_path):
    options = AUGMENTED | {"num_train_epochs": 2, "clean_epochs": 1, "disable_tqdm": True}
    main(argv(tmp_path / "whole", **options))
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **options)))
    run.trainer.add_callback(InterruptAt(15))
    with pytest.raises(KeyboardInterrupt):
        run.train_and_report()
    main(argv(tmp_path / "run", **options))
    check_same_weights(tmp_path / "whole", tmp_path / "run")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "speeds 0.9, 1; gain up to ±6 dB; but for speeds none of it, nor CR-CTC, in the last epoch |" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean_epochs": -1}, "--clean_epochs is -1; they are the last of the 2 of --num_train_epochs"),
        ({"clean_epochs": 3}, "--clean_epochs is 3; .* so give a number from 0 to that"),
        ({"clean_epochs": 2, "max_steps": 1}, "--clean_epochs is 2; .* --max_steps 1 makes, 1 of [0-9]+ updates"),
        ({"clean_epochs": 1, "early_stopping_patience": 2}, "--early_stopping_patience may stop before them"),
        (
            {"clean_epochs": 1, "streaming": True, "max_steps": 4, "eval_strategy": "no", "save_strategy": "no"}
            | {"load_best_model_at_end": False},
            "--streaming true has no epochs, of which --clean_epochs would be the last",
        ),
    ],
)
def test_main_clean_epochs_that_cannot_be_are_refused(argv, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        main(argv(tmp_path / "run", **{"num_train_epochs": 2} | options))
