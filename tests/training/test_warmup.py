"""The stage on synthetic speech: which text is spoken, what the model takes from it, and going on after a kill."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("espeakng_loader", reason="the demo extra (espeakng-loader) is not installed")

from hf_speechft.training import finetune
from hf_speechft.training.arguments import DataArguments
from hf_speechft.training.finetune import FineTuning, main
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.trainer import SpeechTrainer
from hf_speechft.training.warmup import speak_corpus
from tests.training.interruption import check_same_weights

TRANSCRIPTS = ["a b", "cd"]
WARMUP = {"warmup_corpus": "train", "warmup_utterances": 12, "warmup_epochs": 2, "max_steps": 2}


@pytest.fixture
def options(tmp_path):
    return WARMUP | {"cache_dir": tmp_path / "cache"}


def test_speak_corpus_speaks_nothing_unless_asked():
    assert speak_corpus(DataArguments(), TRANSCRIPTS, seed=0) is None


def test_speak_corpus_of_the_transcripts_repeats_them(tmp_path):
    data = DataArguments(warmup_corpus=["train"], warmup_utterances=5, cache_dir=str(tmp_path))
    assert speak_corpus(data, TRANSCRIPTS, seed=0)["text"][:] == ["a b", "cd", "a b", "cd", "a b"]


def test_speak_corpus_of_a_file_leaves_out_foreign_characters_and_says_so(tmp_path, caplog):
    (tmp_path / "text.txt").write_text("A cab!\n\nzoo\nBad\n", encoding="utf-8")
    data = DataArguments(
        warmup_corpus=[str(tmp_path / "text.txt")], warmup_utterances=2, warmup_language="de", cache_dir=str(tmp_path)
    )
    with caplog.at_level(logging.WARNING, logger="hf_speechft"):
        spoken = speak_corpus(data, TRANSCRIPTS, seed=0)
    assert spoken["text"][:] == ["a cab", "bad"]
    assert all(voice.startswith("de+") for voice in spoken["speaker_id"])
    assert "1 of 3 lines left out, for characters that no training transcript has: oz" in caplog.text


def test_speak_corpus_of_transcripts_and_a_grammar_speaks_as_many_sentences_of_both(tmp_path):
    grammar = tmp_path / "cabs.jsgf"
    grammar.write_text("#JSGF V1.0; grammar cabs; public <call> = a (Cab | bad cab | dab);", encoding="utf-8")
    data = DataArguments(warmup_corpus=["train", str(grammar)], warmup_utterances=7, cache_dir=str(tmp_path))
    texts = speak_corpus(data, TRANSCRIPTS, seed=0)["text"][:]
    assert texts[:4] == ["a b", "cd", "a b", "cd"]
    assert sorted(texts[4:]) == ["a bad cab", "a cab", "a dab"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("text.txt", None, r"no such file; give a text file with one sentence a line, a JSGF grammar \(\*.jsgf\), or"),
        ("text.txt", "zoo\n", "holds no line in the"),
        ("text.jsgf", None, "--warmup_corpus .*text.jsgf cannot be read: No such file"),
        (
            "text.jsgf",
            "public <go> = go;",
            "--warmup_corpus .*text.jsgf: grammar line 1, column 1: expected the header",
        ),
    ],
)
def test_main_unusable_warmup_corpus_is_refused(argv, tmp_path, file, text, message):
    if text:
        (tmp_path / file).write_text(text)
    with pytest.raises(SystemExit, match=message):
        main(argv(tmp_path / "run", warmup_corpus=tmp_path / file, cache_dir=tmp_path / "cache"))


def test_run_starts_from_what_synthetic_speech_taught(argv, tmp_path, options):
    frozen = {"learning_rate": 1e-3, "new_learning_rate": 1e-3}
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **options | frozen)))
    before = {name: weight.clone() for name, weight in run.trainer.model.state_dict().items()}
    seen = {}

    def start(resume_from_checkpoint):
        assert resume_from_checkpoint is None
        seen.update({name: weight.clone() for name, weight in run.trainer.model.state_dict().items()})
        raise KeyboardInterrupt

    run.trainer.train = start
    with pytest.raises(KeyboardInterrupt):
        run.train_and_report()
    (checkpoint,) = (tmp_path / "run" / "warmup").glob("checkpoint-*")
    taught = load_file(checkpoint / "model.safetensors")
    assert seen.keys() == taught.keys()
    for name, weight in taught.items():
        assert torch.equal(seen[name], weight)
    assert not torch.equal(seen["head.weight"], before["head.weight"])


def test_run_says_what_synthetic_speech_it_heard(argv, tmp_path, options):
    main(argv(tmp_path / "run", **options))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]
    warmup = metrics["warmup"]
    assert (warmup["text"], warmup["utterances"], warmup["epochs"]) == ("the training transcripts", 12, 2.0)
    assert 5 < warmup["duration_s"] < 60
    assert 0 < warmup["minutes"] < 5
    card = (tmp_path / "run" / "README.md").read_text()
    assert (
        "| first stage, synthetic speech | 12 utterances (0.00 hours) of the training transcripts, spoken by" in card
    )
    assert "and before that on synthetic speech, as the recipe says" in card


def test_run_killed_after_the_stage_is_the_run_that_was_not(argv, tmp_path, options, monkeypatch):
    main(argv(tmp_path / "whole", **options))
    monkeypatch.setattr(FineTuning, "_train", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main(argv(tmp_path / "run", **options))
    monkeypatch.undo()
    trained = []
    train = SpeechTrainer.train
    monkeypatch.setattr(
        finetune.SpeechTrainer,
        "train",
        lambda trainer, **asked: trained.append(trainer.args.output_dir) or train(trainer, **asked),
    )
    main(argv(tmp_path / "run", **options))
    assert trained == [str(tmp_path / "run")]
    check_same_weights(tmp_path / "whole", tmp_path / "run")


def test_stage_with_other_arguments_is_not_gone_on_with(argv, tmp_path, options, monkeypatch):
    monkeypatch.setattr(FineTuning, "_train", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main(argv(tmp_path / "run", **options))
    with pytest.raises(SystemExit, match="holds an unfinished run with other arguments .*warmup_epochs 2.0 -> 3.0"):
        main(argv(tmp_path / "run", **options | {"warmup_epochs": 3}))
    monkeypatch.undo()
    main(argv(tmp_path / "run", **options | {"warmup_epochs": 3, "overwrite_output_dir": True}))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]["warmup"]["epochs"] == 3.0
