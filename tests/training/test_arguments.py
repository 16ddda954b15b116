"""Arguments of a run: what is checked, and what depends on the machine."""

import dataclasses
import math

import pytest
import torch

from hf_speechft.training import arguments
from hf_speechft.training.arguments import DataArguments, ModelArguments, SpeechTrainingArguments, computes_in_bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size is 0; it needs to be 1 or more"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps is 0"),
        ({"learning_rate": math.nan}, "--learning_rate is nan; it needs to be a number from 0 up"),
        ({"new_learning_rate": -1.0}, "--new_learning_rate is -1.0"),
        ({"step_lr_epochs": 0.0}, "--step_lr_epochs is 0.0; it needs to be above 0"),
        ({"batch_seconds": 0.0}, "--batch_seconds is 0.0; it needs to be above 0"),
        ({"batch_seconds": 9.0, "batch_clips": 0}, "--batch_clips is 0; it needs to be above 0"),
        ({"balance_power": 1.5}, "--balance_power is 1.5; it needs to be from 0 to 1"),
        (
            {"balance_by": "accent", "train_sampling_strategy": "random"},
            "--balance_by chooses the clips of an epoch; leave --train_sampling_strategy out",
        ),
        ({"batch_clips": 4}, "--batch_clips limits the batches that --batch_seconds makes; give that as well"),
        (
            {"batch_seconds": 9.0, "train_sampling_strategy": "random"},
            "--batch_seconds chooses the batches; leave --train_sampling_strategy and --auto_find_batch_size out",
        ),
        ({"batch_seconds": 9.0, "auto_find_batch_size": True}, "--batch_seconds chooses the batches; leave"),
        ({"dataloader_drop_last": True}, "--dataloader_drop_last would drop utterances of the evaluated splits too"),
        ({"train_sampling_strategy": "longest"}, "--train_sampling_strategy is 'longest'; choose one of random"),
        ({"remove_unused_columns": True}, "leave --remove_unused_columns"),
        ({"length_column_name": "seconds"}, "leave .*--length_column_name out"),
        ({"metric_for_best_model": "bleu"}, "--metric_for_best_model is 'bleu'; choose one of wer, cer, loss"),
        ({"greater_is_better": True}, "of which less is better"),
        ({"average_checkpoints": 0}, "--average_checkpoints is 0; it needs to be 1 or more"),
        ({"average_checkpoints": 3}, "--average_checkpoints is 3, and --save_total_limit keeps 2; raise it to 3"),
        ({"average_checkpoints": 2, "load_best_model_at_end": False}, "2 needs --load_best_model_at_end"),
        (
            {"early_stopping_patience": 2, "eval_strategy": "no", "load_best_model_at_end": False},
            "--early_stopping_patience needs evaluations: give --eval_strategy epoch or steps",
        ),
    ],
)
def test_training_arguments_that_would_fail_late_raise(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        SpeechTrainingArguments(output_dir=str(tmp_path), **options)


@pytest.mark.parametrize("limit", [-0.1, 1.5, math.nan, math.inf])
def test_data_arguments_limit_of_corrupt_files_that_is_none_raises(limit):
    with pytest.raises(ValueError, match="--max_corrupt_files is .*; give a number of files, or a share from 0"):
        DataArguments(max_corrupt_files=limit)


def test_save_strategy_steps_beside_evaluations_by_epoch_saves_at_both(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 5}
    both = SpeechTrainingArguments(output_dir=str(tmp_path), **options)
    assert both.saves_between_evaluations
    assert both.save_strategy == "epoch"
    steps = SpeechTrainingArguments(output_dir=str(tmp_path), eval_strategy="steps", eval_steps=5, **options)
    assert not steps.saves_between_evaluations
    assert steps.save_strategy == "steps"
    assert not SpeechTrainingArguments(output_dir=str(tmp_path)).saves_between_evaluations


@pytest.mark.parametrize("native", [False, True])
def test_bf16_by_default_is_what_the_machine_computes_in(monkeypatch, native):
    monkeypatch.setattr(arguments, "computes_in_bfloat16", lambda on_cpu: native)
    assert SpeechTrainingArguments().bf16 is native
    assert SpeechTrainingArguments(bf16=False).bf16 is False


def test_computes_in_bfloat16_on_a_cpu_needs_its_instructions(monkeypatch):
    for has_avx, has_amx in [(False, False), (True, False), (False, True)]:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has_avx=has_avx: has_avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has_amx=has_amx: has_amx)
        assert computes_in_bfloat16(on_cpu=True) is (has_avx or has_amx)


def test_computes_in_bfloat16_without_a_gpu_is_false(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert computes_in_bfloat16(on_cpu=False) is False


def test_every_own_argument_has_help():
    for kind in (ModelArguments, DataArguments):
        assert all(field.metadata.get("help") for field in dataclasses.fields(kind))
    own = SpeechTrainingArguments.__annotations__
    fields = {field.name: field for field in dataclasses.fields(SpeechTrainingArguments)}
    assert all(fields[name].metadata.get("help") for name in own)
