"""Two processes do what one does: gradients, batches, scores and a whole run, under DDP on the CPU, in one launch."""

import csv
import json

import jiwer
import pytest
import torch

from tests.training.two_processes import ONE_UPDATE, hear_alone, run_in_two_processes, whole_batch_step

pytestmark = pytest.mark.slow

CLIPS = 12
# How the clips of one update are cut into batches; those by seconds hold different numbers of clips.
UPDATES = {
    "equal": {"per_device_train_batch_size": 6},
    "accumulated": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},
    "seconds": {"batch_seconds": 7},
    "accumulated seconds": {"batch_seconds": 3, "gradient_accumulation_steps": 2},
}
EPOCHS = {"long batches": 3, "short batches": 0.5}


@pytest.fixture(scope="module")
def odd_corpus(tools, tmp_path_factory):
    """Validation and test splits that two processes cannot share equally."""
    folder = tmp_path_factory.mktemp("odd")
    for seed, (split, count) in enumerate({"train": 48, "validation": 7, "test": 9}.items()):
        tools["write_split"](folder / split, tools["make_clips"](split, count, seed))
    return folder


@pytest.fixture(scope="module")
def outcome(argv, odd_corpus, tmp_path_factory):
    """The folder of the launch, and what each process found."""
    folder = tmp_path_factory.mktemp("two")
    quiet = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    epochs = quiet | {"speed_factors": [0.9, 1.0], "num_train_epochs": 1}
    evaluation = {"dataset": odd_corpus, "per_device_eval_batch_size": 2}
    run = evaluation | {"num_train_epochs": 3, "learning_rate": 2e-3, "new_learning_rate": 6e-3, "dropout": 0}
    plan = {
        "updates": {name: (argv(folder / name, **ONE_UPDATE | cut), CLIPS) for name, cut in UPDATES.items()},
        "epochs": {name: argv(folder / name, **epochs, batch_seconds=budget) for name, budget in EPOCHS.items()},
        "evaluation": argv(folder / "evaluated", **evaluation),
        "run": argv(folder / "run", **run | {"per_device_train_batch_size": 2, "mask_time_prob": 0}),
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    printed = run_in_two_processes("tests/training/ddp_process.py", "cpu_ddp.yaml", folder)
    (folder / "printed").write_text(printed)
    return folder, [json.loads((folder / f"found{process}.json").read_text()) for process in range(2)]


@pytest.mark.parametrize("name", UPDATES)
def test_two_processes_give_the_gradient_of_one(outcome, argv, tmp_path, name):
    folder, found = outcome
    batches = found[0][name]["heard"] + found[1][name]["heard"]
    assert sorted(sum(batches, [])) == sorted(f"train{index}.wav" for index in range(CLIPS))
    assert len(batches) == (4 if "accumulated" in name else 2)
    assert (len({len(batch) for batch in batches}) > 1) == ("seconds" in name)
    weights = [torch.load(folder / f"{name}{process}.pt") for process in range(2)]
    loss, expected = whole_batch_step(argv, tmp_path, weights[0]["before"], CLIPS)
    for process in weights:
        for parameter, weight in expected.items():
            torch.testing.assert_close(process["after"][parameter], weight, rtol=1e-4, atol=1e-5)
    before = weights[0]["before"]
    assert sum(not torch.equal(before[parameter], weight) for parameter, weight in expected.items()) > 20
    assert found[0][name]["losses"] == pytest.approx([loss], rel=1e-3)


@pytest.mark.parametrize("name", EPOCHS)
def test_batch_seconds_two_processes_hear_every_clip_once(outcome, name):
    one, other = (found[name] for found in outcome[1])
    clips = sorted(f"train{index}.wav{speed}" for index in range(48) for speed in ("", "@0.9"))
    for epoch in ("0 from 0", "1 from 0", "trained on"):
        assert len(one[epoch]) == len(other[epoch]) == one["batches"]
        assert sorted(name for batch in one[epoch] + other[epoch] for name in batch) == clips
    assert one["0 from 0"] == one["trained on"] != one["1 from 0"]
    assert one["1 from 2"] == one["1 from 0"][2:]
    for process in (one, other):
        assert process["updates"] == process["steps"] == process["max_steps"] == process["batches"]


def clips_of(corpus, split):
    """Files and transcripts in the order of evaluation, the shortest first."""
    with open(corpus / split / "metadata.csv", newline="") as file:
        rows = [(corpus / split / row["file_name"], row["transcription"]) for row in csv.DictReader(file)]
    return sorted(rows, key=lambda row: len(row[1]))  # each character lasts equally long


def test_scores_of_an_odd_number_of_utterances_are_exact(outcome, odd_corpus):
    folder, found = outcome
    clips = clips_of(odd_corpus, "validation")
    texts, losses = hear_alone(folder / "model", clips)
    references = [text for _, text in clips]
    assert len(set(texts)) > 3
    for process in found:
        scores = process["evaluation"]
        assert scores["eval_wer"] == pytest.approx(jiwer.wer(references, texts))
        assert scores["eval_cer"] == pytest.approx(jiwer.cer(references, texts))
        assert scores["eval_loss"] == pytest.approx(sum(losses) / 7, rel=1e-4)


def test_predictions_of_an_odd_number_of_utterances_are_in_order(outcome, odd_corpus):
    folder, found = outcome
    texts, _ = hear_alone(folder / "model", clips_of(odd_corpus, "test"))
    assert len(set(texts)) > 3
    assert [process["evaluation"]["hypotheses"] for process in found] == [texts, texts]


def test_whole_run_says_everything_once(outcome):
    printed = (outcome[0] / "printed").read_text()
    assert printed.count("train: kept 48 of 48 utterances") == 1
    assert printed.count("test WER ") == 1


def test_whole_run_reports_each_utterance_once(outcome, odd_corpus):
    folder = outcome[0] / "run"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    clips = clips_of(odd_corpus, "test")
    assert [(row["utterance_id"], row["reference"]) for row in rows] == [(path.name, text) for path, text in clips]
    texts, _ = hear_alone(folder, clips)
    assert [row["hypothesis"] for row in rows] == texts
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["wer"] == pytest.approx(jiwer.wer([text for _, text in clips], texts))
    assert metrics["test"]["utterances"] == 9
    assert metrics["training"]["optimizer_steps"] == 3 * 12
    assert set(metrics["decoding"]) == {"greedy", "beam search", "beam search, 4-gram"}
