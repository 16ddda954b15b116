"""What each of two processes does in test_two_processes.py: it trains under DDP and writes down what it found."""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState, skip_first_batches

from hf_speechft.training.finetune import FineTuning, main
from hf_speechft.training.recipes import parse_arguments


def listen(trainer):
    """Note the utterances of each batch that this process makes."""
    heard, collate = [], trainer.data_collator
    trainer.data_collator = lambda rows: heard.append([row["utterance_id"] for row in rows]) or collate(rows)
    return heard


def train_once(arguments, clips, weights_file):
    """One update with the first clips, and the weights before and after it."""
    trainer = FineTuning(parse_arguments(arguments)).trainer
    trainer.train_dataset = trainer.train_dataset.select(range(clips))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    heard = listen(trainer)
    trainer.train()
    torch.save({"before": before, "after": trainer.model.state_dict()}, weights_file)
    return {"heard": heard, "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}


def hear(arguments):
    """Two epochs, the second of them also from its third batch on; then an epoch of training."""
    trainer = FineTuning(parse_arguments(arguments)).trainer
    heard = listen(trainer)
    loader = trainer.get_train_dataloader()
    updates = trainer._updates_per_epoch()
    found = {"batches": len(loader), "updates": updates}
    for epoch, skipped in ((0, 0), (1, 0), (1, 2)):
        heard.clear()
        trainer.state.global_step = epoch * updates + skipped
        for _ in skip_first_batches(loader, skipped) if skipped else loader:
            pass
        found[f"{epoch} from {skipped}"] = list(heard)
    trainer.state.global_step = 0
    heard.clear()
    trainer.train()
    return found | {"trained on": heard, "steps": trainer.state.global_step, "max_steps": trainer.state.max_steps}


def evaluate(arguments, model_folder):
    """Scores and hypotheses of a model whose best unit changes from step to step."""
    run = FineTuning(parse_arguments(arguments))
    torch.manual_seed(0)
    with torch.no_grad():
        run.trainer.model.head.weight.normal_(std=3.0)
    metrics = run.trainer.evaluate()
    predictions = run._decode_test()
    if run.trainer.is_world_process_zero():
        run.trainer.model.save_pretrained(model_folder)
        run.processor.save_pretrained(model_folder)
    return metrics | {"hypotheses": [prediction.hypothesis for prediction in predictions]}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    plan = json.loads((folder / "plan.json").read_text())
    process = PartialState(cpu=True).process_index
    found = {
        name: train_once(arguments, clips, folder / f"{name}{process}.pt")
        for name, (arguments, clips) in plan["updates"].items()
    }
    found |= {name: hear(arguments) for name, arguments in plan["epochs"].items()}
    found["evaluation"] = evaluate(plan["evaluation"], folder / "model")
    main(plan["run"])
    (folder / f"found{process}.json").write_text(json.dumps(found))
