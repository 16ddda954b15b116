"""Arguments of a run: what is checked, and what depends on the machine."""

import dataclasses
import math

import pytest
import torch

from hf_speechft.training import arguments
from hf_speechft.training.arguments import DataArguments, ModelArguments, SpeechTrainingArguments, computes_in_bfloat16


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
    assert SpeechTrainingArguments().precision == ("bfloat16" if native else "float32")
    assert SpeechTrainingArguments(bf16=False).precision == "float32"
    half = SpeechTrainingArguments(fp16=True)
    assert (half.bf16, half.precision) == (False, "float16")


def test_evaluations_by_steps_are_those_of_checkpoints_unless_said(tmp_path):
    options = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 70}
    assert SpeechTrainingArguments(output_dir=str(tmp_path), **options).eval_steps == 70
    options |= {"load_best_model_at_end": False, "eval_steps": 35}
    assert SpeechTrainingArguments(output_dir=str(tmp_path), **options).eval_steps == 35


def test_save_total_limit_of_one_keeps_the_best_and_the_last(tmp_path):
    assert SpeechTrainingArguments(output_dir=str(tmp_path), save_total_limit=1).save_total_limit == 2
    options = {"save_total_limit": 1, "load_best_model_at_end": False}
    assert SpeechTrainingArguments(output_dir=str(tmp_path), **options).save_total_limit == 1


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
