"""Augmentation in a run: its arguments, its row in the card, and that an interruption changes nothing."""

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from hf_speechft.training.augmentation import (
    AugmentationArguments,
    describe_augmentation,
    make_augmentation,
)
from hf_speechft.training.finetune import FineTuning
from hf_speechft.training.recipes import parse_arguments
from tests.training.interruption import InterruptAt

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def noise_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noises")
    generator = np.random.default_rng(0)
    for index in range(3):
        soundfile.write(folder / f"{index}.flac", 0.1 * generator.standard_normal(RATE_HZ * 2), RATE_HZ)
    return folder


@pytest.fixture
def everything(noise_dir):
    """Options of a run with all of it on."""
    return {
        "noise_dir": noise_dir,
        "noise_prob": 0.5,
        "noise_snr_db": [5.0, 25.0],
        "reverb_prob": 0.5,
        "gain_db": 6.0,
        "telephone_prob": 0.3,
        "silence_share": 0.1,
        "speed_factors": [0.9, 1.0],
        "num_train_epochs": 3,
        "per_device_train_batch_size": 27,
        "logging_steps": 2,
        "beam_width": 1,
    }


def test_make_augmentation_without_arguments_is_none():
    assert make_augmentation(AugmentationArguments(), RATE_HZ) is None
    assert make_augmentation(AugmentationArguments(noise_prob=1.0), RATE_HZ) is None  # there is no noise to add


@pytest.mark.parametrize(
    "options", [{"reverb_prob": 0.1}, {"gain_db": 3.0}, {"telephone_prob": 0.1}, {"silence_share": 0.1}]
)
def test_make_augmentation_of_one_kind_is_made(options):
    augmentation = make_augmentation(AugmentationArguments(**options), RATE_HZ)
    assert {name: getattr(augmentation, name) for name in options} == options


def test_make_augmentation_reads_folders(noise_dir):
    arguments = AugmentationArguments(noise_dir=str(noise_dir), room_dir=str(noise_dir), reverb_prob=0.5)
    augmentation = make_augmentation(arguments, 8_000)
    assert (len(augmentation.noises), len(augmentation.rooms)) == (3, 3)
    assert augmentation.noises.sampling_rate_hz == 8_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_prob": 1.2}, "--noise_prob is 1.2; it needs to be from 0 to 1"),
        ({"noise_snr_db": [25.0, 5.0]}, "--noise_snr_db is 25 5; give two numbers in dB, the lowest first"),
        ({"noise_snr_db": [5.0, 10.0, 15.0]}, "--noise_snr_db is 5 10 15; give two numbers"),
        ({"gain_db": -1.0}, "--gain_db is -1.0; give a number from 0 up"),
        ({"noise_dir": "absent"}, "--noise_dir: absent is no folder"),
        ({"room_dir": "absent"}, "--room_dir absent needs --reverb_prob above 0, such as 0.3"),
        ({"room_dir": "absent", "reverb_prob": 0.5}, "--room_dir: absent is no folder"),
    ],
)
def test_make_augmentation_with_a_mistake_raises(options, message):
    with pytest.raises(ValueError, match=message):
        make_augmentation(AugmentationArguments(**options), RATE_HZ)


def test_run_with_a_mistake_fails_before_it_loads_anything(argv, tmp_path):
    options = {"noise_dir": tmp_path, "dataset": "absent"}
    with pytest.raises(ValueError, match="--noise_dir: .* holds no audio file"):
        FineTuning(parse_arguments(argv(tmp_path / "run", **options)))


def test_describe_augmentation_says_what_is_on(noise_dir):
    assert describe_augmentation(AugmentationArguments(noise_prob=0.7)) == []
    phrases = describe_augmentation(
        AugmentationArguments(str(noise_dir), 0.5, [5.0, 25.0], 0.25, None, 6.0, 0.1, 0.05)
    )
    assert phrases == [
        "noise in 50% of clips at 5 to 25 dB SNR",
        "synthetic rooms in 25%",
        "gain up to ±6 dB",
        "telephone band in 10%",
        "5% more clips without speech",
    ]
    assert describe_augmentation(AugmentationArguments(reverb_prob=1.0, room_dir="rooms")) == [
        "recorded rooms in 100%"
    ]


def weights(folder, name="model.safetensors"):
    return load_file(folder / name)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for key, weight in one.items():
        assert torch.equal(other[key], weight), key


def test_run_with_everything_on_says_so_and_leaves_evaluation_alone(argv, tmp_path, everything):
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **everything, max_steps=2)))
    assert len(run.splits["train"]) == 2 * 48 + 10
    assert sum(text == "" for text in run.splits["train"]["text"]) == 10
    assert "augmented" not in run.splits["validation"].column_names
    metrics = run.train_and_report()
    assert metrics["data"][0]["utterances"] == 48
    card = (tmp_path / "run" / "README.md").read_text()
    assert "noise in 50% of clips at 5 to 25 dB SNR; synthetic rooms in 50%; gain up to ±6 dB" in card
    assert "10% more clips without speech" in card
    recorded = json.loads((tmp_path / "run" / "arguments.json").read_text())
    assert (recorded["reverb_prob"], recorded["noise_snr_db"]) == (0.5, [5.0, 25.0])


def test_run_is_the_same_with_workers(argv, tmp_path, everything):
    options = everything | {"num_train_epochs": 2}
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    for name, extra in {"alone": {}, "workers": workers}.items():
        FineTuning(parse_arguments(argv(tmp_path / name, **options, **extra))).train_and_report()
    assert_same_weights(weights(tmp_path / "alone"), weights(tmp_path / "workers"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("strategy", "resumed_from"), [("epoch", 4), ("steps", 6)])
def test_resumed_run_equals_the_run_that_was_not_interrupted(
    argv, tmp_path, everything, workers, strategy, resumed_from
):
    options = everything | {"eval_strategy": strategy, "save_strategy": strategy, "eval_steps": 3, "save_steps": 3}
    options |= {"dataloader_num_workers": workers}
    whole = FineTuning(parse_arguments(argv(tmp_path / "whole", **options)))
    whole.train_and_report()
    interrupted = FineTuning(parse_arguments(argv(tmp_path / "part", **options)))
    interrupted.trainer.add_callback(InterruptAt(7))
    with pytest.raises(KeyboardInterrupt):
        interrupted.train_and_report()
    resumed = FineTuning(parse_arguments(argv(tmp_path / "part", **options)))
    assert resumed.checkpoint.endswith(f"checkpoint-{resumed_from}")
    resumed.train_and_report()
    assert whole.trainer.state.global_step == resumed.trainer.state.global_step == 12
    last = "checkpoint-12/model.safetensors"
    assert_same_weights(weights(tmp_path / "whole", last), weights(tmp_path / "part", last))


def test_epochs_of_a_run_hear_different_sound(argv, tmp_path, noise_dir):
    options = {"noise_dir": noise_dir, "noise_prob": 1.0, "num_train_epochs": 2, "per_device_train_batch_size": 48}
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **options)))
    collator, heard = run.trainer.data_collator, []
    augment = collator.augment
    collator.augment = lambda *given: heard.append(augment(*given)) or heard[-1]
    run.trainer.train()
    assert len(heard) == 2 * 48
    first, second = ({clip.tobytes() for clip in part} for part in (heard[:48], heard[48:]))
    assert not first & second
