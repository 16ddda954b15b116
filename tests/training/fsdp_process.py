"""What each of two processes does in test_sharding.py: it trains under FSDP and writes down what it found.

Accelerate offers FSDP on accelerators only, so these processes call the CPU one; all else is FSDP as on GPUs.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from hf_speechft.training.finetune import FineTuning
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.sharding import gather_weights

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


class Shards(TrainerCallback):
    """Notes what was wrapped, and which share of each weight this process holds."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        named = model.named_modules()
        self.wrapped = {name: type(module).__name__ for name, module in named if isinstance(module, FSDPModule)}
        weights = dict(model.named_parameters())
        assert all(isinstance(weight, DTensor) for weight in weights.values())
        self.held = sum(weight.to_local().numel() for weight in weights.values())
        self.all = sum(weight.numel() for weight in weights.values())


def train_once(arguments, weights_file):
    """One update under FSDP, and the whole weights before and after it."""
    trainer = FineTuning(parse_arguments(arguments)).trainer
    trainer.train_dataset = trainer.train_dataset.select(range(8))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    shards = Shards()
    trainer.add_callback(shards)
    trainer.train()
    gather_weights(trainer)
    torch.save({"before": before, "after": trainer.model.state_dict()}, weights_file)
    return {"wrapped": shards.wrapped, "held": shards.held, "all": shards.all}


def run_twice(arguments, output_dir):
    """A whole run; then the same command again, as if it had been killed while it was decoding."""
    FineTuning(parse_arguments(arguments)).train_and_report()
    torch.distributed.barrier()  # the main process decodes and saves
    predictions = (output_dir / "predictions.jsonl").read_text()
    torch.distributed.barrier()
    (output_dir / "metrics.json").unlink(missing_ok=True)
    torch.distributed.barrier()
    again = FineTuning(parse_arguments(arguments))
    again.train_and_report()
    torch.distributed.barrier()
    return {"same": (output_dir / "predictions.jsonl").read_text() == predictions, "from": again.checkpoint}


def main(plan_file):
    """Do what the plan names."""
    plan = json.loads(Path(plan_file).read_text())
    torch.distributed.init_process_group("gloo")
    process = torch.distributed.get_rank()
    found = train_once(plan["update"], Path(plan_file).with_name(f"weights{process}.pt"))
    found |= run_twice(plan["run"], Path(plan["output_dir"]))
    Path(plan_file).with_name(f"found{process}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
    torch.distributed.destroy_process_group()
