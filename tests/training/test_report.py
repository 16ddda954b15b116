"""What a run says about itself: metrics.json, predictions.jsonl, curves and the card, from given facts."""

import json
import re
import sys

import jiwer
import pytest
import torch
from huggingface_hub import ModelCard

from hf_speechft.sharing.card import SplitFacts
from hf_speechft.training.decode import Decoding
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.report import (
    Prediction,
    RunFacts,
    command_line,
    describe_hardware,
    peak_memory_gb,
    write_report,
)

PREDICTIONS = [
    Prediction("b", "turn on the light", "turn the lights"),
    Prediction("a", "stop", "stop"),
    Prediction("c", "käse | brot", "kase brot"),
]
LOG = [
    {"loss": 3.0, "learning_rate": 1e-4, "epoch": 0.5, "step": 1},
    {"eval_loss": 2.0, "eval_wer": 0.9, "eval_cer": 0.5, "epoch": 1.0, "step": 2},
    {"eval_loss": 1.0, "eval_wer": 0.4, "eval_cer": 0.2, "epoch": 2.0, "step": 4},
    {"eval_loss": 0.9, "eval_wer": 0.6, "eval_cer": 0.3, "epoch": 3.0, "step": 6},
    {"train_loss": 1.5, "train_runtime": 90.0, "epoch": 3.0, "step": 6},
]


def make_facts(**changes):
    splits = [
        SplitFacts("train", 10, 120.0, 3, {"too short": 2, "empty transcript": 1}),
        SplitFacts("validation", 2, 12.0, None, {}),
        SplitFacts("test", 3, 18.0, None, {}),
    ]
    values = {
        "parameters": 12_345,
        "trainable_parameters": 345,
        "vocabulary_size": 7,
        "goes_on": False,
        "attention": "bidirectional",
        "splits": splits,
        "predictions": PREDICTIONS,
        "decodings": [],
        "log_history": LOG,
        "optimizer_steps": 6,
        "epochs": 3.0,
        "minutes": 1.5,
    }
    return RunFacts(**values | changes)


@pytest.fixture
def written(tmp_path):
    arguments = parse_arguments(["--dataset", "corpus", "--output_dir", str(tmp_path / "name"), "--bf16", "false"])
    return write_report(tmp_path, arguments, make_facts()), tmp_path


def test_write_report_writes_four_files(written):
    _, folder = written
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "metrics.json", "predictions.jsonl", "training_curves.png",
    ]  # fmt: skip
    assert (folder / "training_curves.png").read_bytes().startswith(b"\x89PNG")


def test_write_report_metrics_match_jiwer(written):
    metrics, folder = written
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    references = [one.reference for one in PREDICTIONS]
    hypotheses = [one.hypothesis for one in PREDICTIONS]
    words, characters = jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)
    test = metrics["test"]
    assert test["wer"] == pytest.approx(words.wer)
    assert test["cer"] == pytest.approx(characters.cer)
    for counts, expected in ((test["words"], words), (test["characters"], characters)):
        for name in ("hits", "substitutions", "deletions", "insertions"):
            assert counts[name] == getattr(expected, name)
        assert counts["reference_length"] == expected.hits + expected.substitutions + expected.deletions
    for rate, (low, high) in ((test["wer"], test["wer_interval_95"]), (test["cer"], test["cer_interval_95"])):
        assert 0 <= low <= rate <= high


def test_write_report_has_a_row_for_each_decoding(tmp_path):
    beam = Decoding("beam search", ["turn on the lights", "stop", "käse brot"], {"beam_width": 32})
    settings = {"beam_width": 32, "lm_weight": 0.5}
    with_lm = Decoding("beam search, 4-gram", [one.reference for one in PREDICTIONS], settings)
    arguments = parse_arguments(["--dataset", "corpus", "--bf16", "false"])
    metrics = write_report(tmp_path, arguments, make_facts(decodings=[beam, with_lm]))
    rates = {name: row["wer"] for name, row in metrics["decoding"].items()}
    assert rates == pytest.approx({"greedy": 4 / 8, "beam search": 2 / 8, "beam search, 4-gram": 0.0})
    assert metrics["decoding"]["greedy"] == metrics["test"]
    row = metrics["decoding"]["beam search, 4-gram"]
    assert row["settings"] == settings
    assert row["wer_difference"] == pytest.approx(-0.5)
    low, high = row["wer_difference_interval_95"]
    assert -1 <= low <= -0.5 <= high <= 0
    first = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])
    assert first["decodings"] == {"beam search": "turn on the lights", "beam search, 4-gram": "turn on the light"}
    card = (tmp_path / "README.md").read_text()
    assert "| test | beam search, 4-gram | WER | 0.00 % |" in card
    assert "| lm weight | 0.5 |" in card
    assert ModelCard.load(tmp_path / "README.md").data.eval_results[0].metric_value == 50.0


def test_write_report_predictions_keep_order_and_letters(written):
    _, folder = written
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["utterance_id"] for row in rows] == ["b", "a", "c"]
    assert rows[0] | {"word_errors": 2} == rows[0]
    assert [row["word_errors"] for row in rows] == [2, 0, 2]
    assert "käse" in lines[2]


def test_write_report_validation_is_the_best_evaluation(written):
    assert written[0]["validation"] == {"wer": 0.4, "cer": 0.2, "loss": 1.0, "epoch": 2.0}


def test_write_report_card_names_every_setting_that_shapes_the_weights(tmp_path):
    options = {
        "body_dropout": 0.25,
        "attention_dropout": 0.15,
        "dropout": 0.05,
        "warmup_steps": 7,
        "weight_decay": 0.02,
        "adam_beta2": 0.97,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    write_report(tmp_path, parse_arguments(["--dataset", "corpus", "--bf16", "false", *words]), make_facts())
    card = (tmp_path / "README.md").read_text()
    for row in (
        "| dropout, body | 0.25 |",
        "| dropout, attention | 0.15 |",
        "| dropout, front-end and head | 0.05 |",
        "| warm-up | 7 updates |",
        "| weight decay | 0.02 |",
        "| Adam's betas | 0.9, 0.97 |",
    ):
        assert row in card


@pytest.mark.parametrize(
    ("options", "wer"),
    [
        ([], 0.2),
        (["--metric_for_best_model", "cer"], 0.5),
        (["--metric_for_best_model", "eval_loss"], 0.3),
        (["--load_best_model_at_end", "false"], 0.4),
    ],
)
def test_write_report_validation_is_that_of_the_checkpoint_that_was_kept(tmp_path, options, wer):
    rows = [(0.2, 0.3, 9.0), (0.5, 0.1, 8.0), (0.3, 0.2, 1.0), (0.4, 0.4, 5.0)]
    log = [
        {"eval_wer": wer, "eval_cer": cer, "eval_loss": loss, "epoch": epoch}
        for epoch, (wer, cer, loss) in enumerate(rows, start=1)
    ]
    arguments = parse_arguments(["--dataset", "corpus", "--use_cpu", *options])
    assert write_report(tmp_path, arguments, make_facts(log_history=log))["validation"]["wer"] == wer


def test_write_report_without_evaluations_has_no_validation(tmp_path):
    arguments = parse_arguments(["--dataset", "corpus"])
    for log in ([], LOG[-1:]):
        assert write_report(tmp_path, arguments, make_facts(log_history=log))["validation"] == {}


def test_write_report_data_and_training_are_the_facts(written):
    metrics, _ = written
    assert metrics["data"][0]["dropped"] == {"too short": 2, "empty transcript": 1}
    assert metrics["data"][1]["speakers"] is None
    training = metrics["training"]
    assert (training["parameters"], training["trainable_parameters"]) == (12_345, 345)
    assert (training["peak_gpu_memory_gb"] is None) == (not torch.cuda.is_available())
    assert (training["minutes"], training["optimizer_steps"], training["epochs"]) == (1.5, 6, 3.0)
    assert training["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert set(training["versions"]) == {"hf_speechft", "torch", "transformers", "accelerate", "datasets"}


def test_write_report_card_has_the_metrics_numbers(written):
    metrics, folder = written
    card = ModelCard.load(folder / "README.md")
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {name: round(100 * metrics["test"][name], 2) for name in ("wer", "cer")}
    text = card.text
    low, high = metrics["test"]["wer_interval_95"]
    assert f"| {100 * metrics['test']['wer']:.2f} % | {100 * low:.2f} % to {100 * high:.2f} % |" in text
    assert "| train | 10 | 0.03 | 2.0 | 3 | 3 (2 too short, 1 empty transcript) |" in text
    assert "Training time: 1.5 minutes" in text
    assert "| parameters | 12,345 |" in text
    assert re.search(r"\| a \| stop \| stop \|\n\| b \| turn on the light \| turn the lights \|", text)


def test_write_report_card_names_packaged_minilm_by_its_hub_id(tmp_path):
    write_report(tmp_path, parse_arguments(["--dataset", "corpus"]), make_facts())
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize(
    ("argv", "rows"),
    [
        (
            [
                "--step_lr_epochs",
                "10",
                "--frequency_warp",
                "0.1",
                "--position_shift",
                "100",
                "--speed_factors",
                "0.9",
                "1",
                "--gradient_accumulation_steps",
                "4",
            ],
            [
                "| learning-rate schedule | StepLR every 10.0 epochs, factor 0.1 |",
                "in masks of 10; frequencies up to 10% higher or lower; positions up to 100 steps later; "
                "speeds 0.9, 1 |",
                "| batch size | 32 |",
            ],
        ),
        ([], ["| learning-rate schedule | cosine |", "in masks of 10 |", "| batch size | 8 |", "| seed | 42 |"]),
    ],
)
def test_write_report_card_tells_the_recipe(tmp_path, argv, rows):
    write_report(tmp_path, parse_arguments(["--dataset", "corpus", "--use_cpu", *argv]), make_facts())
    text = (tmp_path / "README.md").read_text()
    for row in rows:
        assert row in text


def test_command_line_quotes_what_a_shell_would_split(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/run_finetune.py", "recipes/an4.yaml", "--dataset", "my data"])
    assert command_line() == "accelerate launch run_finetune.py recipes/an4.yaml --dataset 'my data'"


@pytest.mark.parametrize(
    "given",
    [["--hub_token", "hf_secret"], ["--hub_token=hf_secret"], ["--hub-token", "hf_secret"], ["--hub_tok=hf_secret"]],
)
def test_card_does_not_show_the_token(monkeypatch, tmp_path, given):
    argv = ["run_finetune.py", "--dataset", "corpus", *given, "--seed", "7"]
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line("hf_secret") == "accelerate launch run_finetune.py --dataset corpus --seed 7"
    write_report(tmp_path, parse_arguments(argv[1:]), make_facts())
    for path in tmp_path.iterdir():
        assert b"hf_secret" not in path.read_bytes()


def test_describe_hardware_names_cores_or_gpu():
    assert re.search(r"\d+ (CPU cores|x )", describe_hardware())


def test_peak_memory_is_plausible():
    assert 0.1 < peak_memory_gb() < 1000


@pytest.mark.parametrize(
    ("options", "batch_size"),
    [
        (["--per_device_train_batch_size", "6"], "12"),
        (["--batch_seconds", "40"], "at most 80 s of speech, padding included"),
        (
            ["--batch_seconds", "2.5", "--batch_clips", "8"],
            "at most 5 s of speech, padding included, and 16 utterances",
        ),
    ],
)
def test_card_says_what_an_update_learns_from(tmp_path, options, batch_size):
    common = ["--dataset", "corpus", "--output_dir", str(tmp_path), "--bf16", "false"]
    arguments = parse_arguments([*common, "--gradient_accumulation_steps", "2", *options])
    write_report(tmp_path, arguments, make_facts())
    assert f"| batch size | {batch_size} |" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("dataset", "declared"), [("mozilla-foundation/common_voice_17_0", True), ("demo", False), (".", False)]
)
def test_card_declares_a_data_set_of_the_hub(tmp_path, dataset, declared):
    write_report(tmp_path, parse_arguments(["--dataset", dataset, "--use_cpu"]), make_facts())
    card = ModelCard.load(tmp_path / "README.md").data
    assert card.datasets == ([dataset] if declared else None)
    if declared:
        assert {result.dataset_type for result in card.eval_results} == {dataset}


@pytest.mark.parametrize(
    ("options", "row"),
    [
        (["--method", "random"], "random weights in the text checkpoint's shape; front-end and head new"),
        ([], "pre-trained text checkpoint; front-end and head new"),
        (["--vocabulary", "native"], "pre-trained text checkpoint; front-end new, head from its word embeddings"),
        (["--step_lr_epochs", "3"], "| warm-up | none |"),
    ],
)
def test_card_tells_what_was_begun_with(tmp_path, options, row):
    write_report(tmp_path, parse_arguments(["--dataset", "corpus", "--use_cpu", *options]), make_facts())
    assert row in (tmp_path / "README.md").read_text()
