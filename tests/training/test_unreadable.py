"""Clips that break in the middle of a run: counted, named, left out, up to a limit."""

import json
import logging
import shutil

import jiwer
import pytest
import torch

from hf_speechft.data.unreadable import UnreadableClip, UnreadableClips
from hf_speechft.training.finetune import FineTuning, main
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.unreadable import UnreadableLimit, count_unreadable

OPTIONS = {"num_train_epochs": 1, "per_device_train_batch_size": 24, "max_corrupt_files": 4}


@pytest.fixture
def fragile(corpus, tmp_path):
    """A copy of the corpus whose files can be broken."""
    return shutil.copytree(corpus, tmp_path / "corpus")


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def break_files(folder):
    """Two files of the training split, one of each other."""
    cut_off(folder / "train" / "train5.wav")
    (folder / "train" / "train7.wav").unlink()
    (folder / "validation" / "validation1.wav").unlink()
    cut_off(folder / "test" / "test2.wav")


def test_run_leaves_out_counts_and_names_files_that_break(argv, tmp_path, fragile, caplog):
    options = OPTIONS | {"dataset": fragile, "speed_factors": [0.9, 1.0], "num_train_epochs": 2}
    run = FineTuning(parse_arguments(argv(tmp_path / "run", dataloader_num_workers=1, **options)))
    break_files(fragile)
    metrics = run.train_and_report()
    assert [(split["name"], split["unreadable"]) for split in metrics["data"]] == [
        ("train", 2), ("validation", 1), ("test", 1),
    ]  # fmt: skip
    noted = [json.loads(line) for line in (tmp_path / "run" / "unreadable.jsonl").read_text().splitlines()]
    assert {row["utterance_id"] for row in noted} == {
        "train5.wav", "train5.wav@0.9", "train7.wav", "train7.wav@0.9", "validation1.wav", "test2.wav",
    }  # fmt: skip
    named = [message for message in caplog.messages if message.startswith("unreadable: ")]
    assert len(named) == 4
    assert any("train5.wav is truncated or damaged" in message for message in named)
    assert any("train7.wav does not exist" in message for message in named)
    assert "; 2 more turned out unreadable |" in (tmp_path / "run" / "README.md").read_text()


def test_run_counts_words_of_unreadable_test_clips_as_deleted(argv, tmp_path, fragile):
    still = {"learning_rate": 0, "new_learning_rate": 0}
    run = FineTuning(parse_arguments(argv(tmp_path / "run", dataset=fragile, **OPTIONS | still)))
    with torch.no_grad():
        run.trainer.model.head.weight.normal_(std=3.0)  # so that it hears something in any sound, silence too
    cut_off(fragile / "test" / "test2.wav")
    metrics = run.train_and_report()
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    (lost,) = [row for row in rows if row["utterance_id"] == "test2.wav"]
    assert lost["hypothesis"] == ""
    assert set(lost["decodings"].values()) == {""}
    assert lost["word_errors"] == len(lost["reference"].split())
    assert all(row["hypothesis"] for row in rows if row is not lost)
    references, hypotheses = [row["reference"] for row in rows], [row["hypothesis"] for row in rows]
    assert metrics["test"]["wer"] == pytest.approx(jiwer.wer(references, hypotheses))


@pytest.mark.parametrize("workers", [0, 1])
def test_main_too_many_unreadable_files_are_refused(argv, tmp_path, fragile, monkeypatch, workers):
    options = OPTIONS | {"dataset": fragile, "max_corrupt_files": 1, "dataloader_num_workers": workers}
    train = FineTuning.train_and_report
    monkeypatch.setattr(FineTuning, "train_and_report", lambda run: break_files(fragile) or train(run))
    with pytest.raises(SystemExit) as stopped:
        main(argv(tmp_path / "run", **options))
    message = str(stopped.value.code)
    assert message.startswith("error: 2 files cannot be read, and --max_corrupt_files bears with 1: ")
    assert "train5.wav is truncated or damaged" in message
    assert "train7.wav does not exist" in message
    assert "unreadable.jsonl. Mend them" in message


@pytest.fixture
def sums(argv, tmp_path, fragile):
    """A function that gives the gradients of a batch of training rows; no number in it is random."""
    quiet = {"mask_time_prob": 0, "mask_feature_prob": 0, "dropout": 0, "intermediate_ctc_weight": 0.3}
    run = FineTuning(parse_arguments(argv(tmp_path / "run", dataset=fragile, **OPTIONS | quiet)))
    run.trainer.create_optimizer()
    model = run.trainer.model

    def gradients(rows, collate=run.trainer.data_collator):
        model.zero_grad()
        made = [collate([run.splits["train"][row] for row in rows])]
        (batch,), utterances = run.trainer.get_batch_samples(iter(made), 1, torch.device("cpu"))
        run.trainer.current_gradient_accumulation_steps = 1
        loss = run.trainer.training_step(model.eval(), batch, utterances)
        return loss, {name: weight.grad.clone() for name, weight in model.named_parameters()}

    # The training step puts the model into training mode, whose only randomness is dropout.
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return gradients


def test_batch_without_its_unreadable_clip_gives_the_gradients_of_the_rest(sums, fragile):
    expected_loss, expected = sums([1, 2, 4])
    (fragile / "train" / "train3.wav").unlink()
    loss, found = sums([1, 2, 3, 4])
    torch.testing.assert_close(loss, expected_loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_batch_of_unreadable_clips_only_gives_gradients_of_zeros(sums, fragile):
    for row in (1, 2):
        (fragile / "train" / f"train{row}.wav").unlink()
    loss, found = sums([1, 2])
    assert loss == 0
    assert all(not gradient.any() for gradient in found.values())


@pytest.mark.parametrize(("limit", "files"), [(0, 0), (0.01, 1), (0.5, 24), (1, 1), (30, 30)])
def test_unreadable_limit_is_a_number_or_a_share_rounded_up(tmp_path, limit, files):
    assert UnreadableLimit(UnreadableClips(tmp_path / "x"), limit, 48).limit == files


def test_count_unreadable_counts_each_file_of_a_split_once(tmp_path):
    clips = UnreadableClips(tmp_path / "x")
    for name, file in [("a", "a.wav"), ("a@0.9", "a.wav"), ("b", "b.wav"), ("c", "c.wav")]:
        clips.note(UnreadableClip(name, file, "gone"))
    assert count_unreadable(clips, ["a", "a@0.9", "b", "d"]) == 2
    assert count_unreadable(clips, ["c"]) == 1


def test_files_met_before_a_stop_do_not_count_again(argv, tmp_path, fragile):
    """Who mends what the error named can go on with the same command."""
    options = OPTIONS | {"dataset": fragile, "max_corrupt_files": 0}
    run = FineTuning(parse_arguments(argv(tmp_path / "run", **options)))
    kept = (fragile / "train" / "train7.wav").read_bytes()
    (fragile / "train" / "train7.wav").unlink()
    with pytest.raises(ValueError, match="1 files cannot be read, and --max_corrupt_files bears with 0"):
        run.train_and_report()
    (fragile / "train" / "train7.wav").write_bytes(kept)
    logging.getLogger("hf_speechft").info("mended")
    assert FineTuning(parse_arguments(argv(tmp_path / "run", **options))).train_and_report()["data"]
