"""Starts a script of this folder in two processes on the CPU; and does in one, in plain torch, what they should do."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCTC, AutoProcessor

from hf_speechft.data.collate import SpeechCollator
from hf_speechft.training.finetune import FineTuning
from hf_speechft.training.recipes import parse_arguments

ROOT = Path(__file__).resolve().parents[2]

# One update with SGD, without dropout, masks, clipping and warm-up: weights - 0.1 * gradient.
ONE_UPDATE = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "new_learning_rate": 0.1, "warmup_steps": 0}
ONE_UPDATE |= {"dropout": 0, "body_dropout": 0, "mask_time_prob": 0, "mask_feature_prob": 0, "max_grad_norm": 0}
ONE_UPDATE |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
ONE_UPDATE |= {"lr_scheduler_type": "constant", "logging_steps": 1}


def run_in_two_processes(script, config, *arguments):
    """Run a script by `accelerate launch` with a configuration of accelerate_configs/."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    launch += ["--config_file", str(ROOT / "accelerate_configs" / config), str(ROOT / script), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(launch, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr[-5000:]
    return ran.stdout + ran.stderr


def whole_batch_step(argv, folder, weights, clips):
    """Loss and weights after one step of gradient descent on the mean loss of all clips, in plain torch."""
    run = FineTuning(parse_arguments(argv(folder, **ONE_UPDATE)))
    model = run.trainer.model.train()
    model.load_state_dict(weights)
    train = run.splits["train"]
    loss = model(**SpeechCollator(run.processor)([train[index] for index in range(clips)])).loss
    loss.backward()
    return loss.item(), {name: weight - 0.1 * weight.grad for name, weight in model.named_parameters()}


def hear_alone(folder, clips):
    """Hypothesis and loss of each clip by itself, with the model in a folder and stock transformers."""
    model, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    texts, losses = [], []
    for path, text in clips:
        batch = SpeechCollator(processor)([{"audio": str(path), "text": text}])
        with torch.no_grad():
            losses.append(model(**batch).loss.item())
        texts += processor.batch_decode(
            model.generate(batch["input_features"], batch["attention_mask"]), skip_special_tokens=True
        )
    return texts, losses
