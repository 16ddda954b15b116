"""Which arguments of a run are refused before anything is loaded."""

import math

import pytest

from hf_speechft.training.arguments import SpeechTrainingArguments


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
        ({"dataloader_drop_last": True}, "leave --dataloader_drop_last out: it would drop utterances of"),
        (
            {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 50, "save_steps": 100},
            "--eval_steps is 50 and --save_steps 100: the best .* may have no checkpoint .*; give both the same",
        ),
        ({"prediction_loss_only": True}, "leave --prediction_loss_only out: error rates are read"),
        ({"batch_eval_metrics": True}, "leave --batch_eval_metrics out: error rates are counted"),
        ({"label_smoothing_factor": 0.1}, "leave --label_smoothing_factor out: CTC has no label for each step"),
        ({"save_only_model": True}, "leave --save_only_model out: .* needs the optimiser's state"),
        ({"hub_revision": "dev"}, "leave --hub_revision out: .* uploaded to the main branch"),
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
