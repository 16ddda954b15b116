"""SpeechTrainer: order and decoding of evaluation, its loss, error rates, and gradient accumulation."""

import copy
import errno
import json
import shutil
from collections import Counter

import jiwer
import numpy as np
import pytest
import torch
from datasets import concatenate_datasets
from transformers import EvalPrediction, Trainer, TrainerCallback

from hf_speechft import SpeechBertFeatureExtractor, SpeechBertProcessor, SpeechBertTokenizer
from hf_speechft.data.collate import SpeechCollator
from hf_speechft.sharing.save import SaveError
from hf_speechft.training.arguments import SpeechTrainingArguments
from hf_speechft.training.dropout import ByteDropout
from hf_speechft.training.finetune import FineTuning
from hf_speechft.training.recipes import parse_arguments
from hf_speechft.training.trainer import SpeechTrainer, error_rates


@pytest.fixture(scope="module")
def run(argv, tmp_path_factory):
    """A run that is ready to train; its head is loud, so that the best unit changes from step to step."""
    options = {"per_device_eval_batch_size": 3}
    run = FineTuning(parse_arguments(argv(tmp_path_factory.mktemp("run"), **options)))
    with torch.no_grad():
        run.trainer.model.head.weight.normal_(std=3.0)
    return run


@pytest.fixture
def trainer(run):
    run.trainer.model.eval()
    return run.trainer


def batch_of(run, indices):
    validation = run.splits["validation"]
    return SpeechCollator(run.processor)([validation[index] for index in indices])


def with_long_transcript(split, index):
    """The split with one utterance whose transcript cannot be said in its time."""
    row = split.select([index]).remove_columns("text").add_column("text", ["abcd " * 30])
    rest = [split.select([one]) if one != index else row.cast(split.features) for one in range(len(split))]
    return concatenate_datasets(rest)


@pytest.mark.parametrize(
    ("vocabulary", "weight", "spells"), [("native", 0.3, True), ("native", 0.0, False), ("char", 0.3, False)]
)
def test_middle_layer_learns_characters_below_native_units(argv, tmp_path, vocabulary, weight, spells):
    options = {"vocabulary": vocabulary, "intermediate_ctc_weight": weight}
    run = FineTuning(parse_arguments(argv(tmp_path, **options)))
    batch, seen = batch_of(run, [0, 1]), {}
    hook = run.trainer.model.register_forward_pre_hook(
        lambda model, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    run.trainer.compute_loss(run.trainer.model.train(), dict(batch))
    hook.remove()
    assert ("middle_targets" in seen) == spells
    if spells:
        tokenizer = run.processor.tokenizer
        given = tokenizer.batch_decode(seen["middle_targets"], group_tokens=False)
        assert given == run.splits["validation"]["text"][:2]
        assert all(
            len(tokenizer.units[unit]) == 1 for unit in seen["middle_targets"][seen["middle_targets"] >= 0].tolist()
        )


def test_trainer_without_a_processor_learns_with_intermediate_ctc(run, tmp_path):
    model = copy.deepcopy(run.trainer.model).train()
    model.config.intermediate_ctc_weight = 0.3
    off = {"eval_strategy": "no", "load_best_model_at_end": False, "report_to": "none"}
    trainer = SpeechTrainer(model, SpeechTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **off))
    assert trainer.compute_loss(model, batch_of(run, [0, 1])).isfinite()


def test_dropout_on_a_cpu_is_drawn_from_bytes(trainer):
    kinds = {type(module) for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert kinds == {ByteDropout}


def test_evaluation_keeps_the_order_of_the_data(run, trainer):
    expected = [run.processor.tokenizer(text)["input_ids"] for text in run.splits["validation"]["text"]]
    seen = [label[label >= 0].tolist() for batch in trainer.get_eval_dataloader() for label in batch["labels"]]
    assert seen == expected
    assert trainer.args.train_sampling_strategy == "group_by_length"


def test_predict_ids_are_those_that_generate_gives_each_utterance_alone(run, trainer):
    ids = trainer.predict(run.splits["validation"]).predictions
    texts = run.processor.batch_decode(ids, skip_special_tokens=True)
    alone = []
    for index in range(len(run.splits["validation"])):
        batch = batch_of(run, [index])
        alone += run.processor.batch_decode(
            trainer.model.generate(batch["input_features"], batch["attention_mask"]), skip_special_tokens=True
        )
    assert texts == alone
    assert len(set(texts)) > 4


def test_prediction_step_equals_generate_and_forward(run, trainer):
    batch = batch_of(run, [0, 7, 3])
    loss, ids, labels = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    assert torch.equal(ids, trainer.model.generate(batch["input_features"], batch["attention_mask"]))
    with torch.no_grad():
        torch.testing.assert_close(loss, trainer.model(**batch).loss)
    assert torch.equal(labels, batch["labels"])
    assert "labels" in batch


def test_prediction_step_loss_only_returns_nothing_else(run, trainer):
    loss, ids, labels = trainer.prediction_step(trainer.model, batch_of(run, [0, 1]), prediction_loss_only=True)
    assert loss.ndim == 0
    assert ids is labels is None


def test_evaluate_loss_is_the_mean_over_utterances(run, trainer):
    with torch.no_grad():
        losses = [trainer.model(**batch_of(run, [index])).loss for index in range(8)]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_prediction_step_leaves_utterances_that_cannot_be_aligned_out_of_the_loss(run, trainer):
    rows = [run.splits["validation"][index] for index in (1, 2)]
    long = {**rows[0], "text": "abcd " * 30}
    batch = SpeechCollator(run.processor)([rows[0], long, rows[1]])
    with pytest.raises(ValueError, match="1 of 3 utterances are too short for their labels"):
        trainer.model(**batch)
    loss, ids, _ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    expected, _, _ = trainer.prediction_step(trainer.model, batch_of(run, [1, 2]), prediction_loss_only=False)
    torch.testing.assert_close(loss, expected)
    assert len(ids) == 3
    assert torch.equal(ids[0], ids[1])


def test_prediction_step_where_nothing_can_be_aligned_has_no_loss(run, trainer):
    batch = SpeechCollator(run.processor)([{**run.splits["validation"][1], "text": "abcd " * 30}])
    loss, ids, _ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    assert loss.item() == 0.0
    assert ids.shape[0] == 1


def test_evaluate_counts_errors_of_utterances_that_cannot_be_aligned(run, trainer):
    split = with_long_transcript(run.splits["validation"], 2)
    hypotheses = run.processor.batch_decode(trainer.predict(split).predictions, skip_special_tokens=True)
    trainer.compute_metrics = error_rates(run.processor, split["text"])
    metrics = trainer.evaluate(split)
    assert metrics["eval_wer"] == pytest.approx(jiwer.wer(split["text"][:], hypotheses))
    assert metrics["eval_loss"] < 1e4


def test_error_rates_match_jiwer(run):
    references = ["ab cd", "a b", "d"]
    hypotheses = ["ab c", "", "d d"]
    tokenizer = run.processor.tokenizer
    rows = []
    for text in hypotheses:
        ids = tokenizer(text)["input_ids"]
        steps = [unit for one in ids for unit in (one, one, tokenizer.pad_token_id)]
        rows.append(steps + [-100] * (20 - len(steps)))  # the Trainer pads predictions with -100
    scores = error_rates(run.processor, references)(
        EvalPrediction(predictions=torch.tensor(rows).numpy(), label_ids=None)
    )
    assert scores == pytest.approx(
        {"wer": jiwer.wer(references, hypotheses), "cer": jiwer.cer(references, hypotheses), "empty": 1 / 3}
    )
    assert 0 < scores["cer"] < scores["wer"]


def test_error_rates_leave_out_spaces_that_the_units_cannot_write(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "打": 2, "开": 3}))
    tokenizer = SpeechBertTokenizer(str(tmp_path / "vocab.json"))
    processor = SpeechBertProcessor(SpeechBertFeatureExtractor(), tokenizer)
    compute = error_rates(processor, ["打 开 ", "开"])
    scores = compute(EvalPrediction(predictions=np.array([[2, 3], [3, -100]]), label_ids=None))
    assert (scores["wer"], scores["cer"]) == (0.0, 0.0)


def test_training_order_depends_on_seed_and_epoch_only(run, trainer):
    def order(global_step, seed=42):
        trainer.state.global_step, trainer.args.seed = global_step, seed
        torch.rand(global_step + 1)  # the global generator's state does not matter
        return list(trainer._get_train_sampler())

    first, second = order(0), order(6)  # six updates an epoch
    assert sorted(first) == list(range(48))
    assert first == order(5)  # resumed in the first epoch
    assert second == order(11) != first
    assert order(0, seed=43) != first
    trainer.state.global_step, trainer.args.seed = 0, 42


SECONDS = {"batch_seconds": 3, "speed_factors": [0.9, 1.0], "eval_strategy": "no", "save_strategy": "no"}
SECONDS |= {"load_best_model_at_end": False}


@pytest.fixture(scope="module")
def unbalanced(corpus, tmp_path_factory):
    """The corpus with columns of classes in its training split: 6 of 48 clips have another accent than the others."""
    folder = tmp_path_factory.mktemp("unbalanced") / "corpus"
    shutil.copytree(corpus, folder)
    metadata = folder / "train" / "metadata.csv"
    header, *rows = metadata.read_text().splitlines()
    accents = ["north" if index % 8 == 0 else "south" for index in range(len(rows))]
    lines = [f"{row},{accent},en" for row, accent in zip(rows, accents, strict=True)]
    metadata.write_text("\n".join([f"{header},accent,language", *lines]) + "\n")
    return folder


class Ears(TrainerCallback):
    """A collator that notes what goes into each batch, and how many there were and at what rate at each update."""

    def __init__(self, collator):
        self.collator, self.batches, self.updates, self.rates = collator, [], [], []

    def __call__(self, rows):
        self.batches.append([row["utterance_id"] for row in rows])
        return self.collator(rows)

    def on_step_begin(self, args, state, control, **kwargs):
        self.updates.append(len(self.batches))
        self.rates.append(min(kwargs["lr_scheduler"].get_last_lr()))


def listen(run):
    ears = run.trainer.data_collator = Ears(run.trainer.data_collator)
    run.trainer.add_callback(ears)
    return ears


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_batch_seconds_every_count_of_updates_is_right(argv, tmp_path, accumulation):
    options = SECONDS | {"gradient_accumulation_steps": accumulation, "num_train_epochs": 3, "step_lr_epochs": 2}
    run = FineTuning(parse_arguments(argv(tmp_path, **options)))
    ears, trainer = listen(run), run.trainer
    trainer.train()
    epoch_batches = len(trainer.get_train_dataloader())
    updates = -(-epoch_batches // accumulation)
    assert len(ears.batches) == 3 * epoch_batches
    assert trainer.state.global_step == trainer.state.max_steps == 3 * updates
    assert trainer._updates_per_epoch() == updates
    assert trainer.state.epoch == 3
    assert ears.rates == pytest.approx([3e-4] * 2 * updates + [3e-5] * updates)  # of the body


def test_batch_seconds_each_epoch_hears_every_clip_once_in_another_order_within_the_budget(argv, tmp_path):
    run = FineTuning(parse_arguments(argv(tmp_path, **SECONDS, num_train_epochs=2, batch_clips=5)))
    ears, train = listen(run), run.splits["train"]
    run.trainer.train()
    durations = dict(zip(train["utterance_id"], train["duration_s"], strict=True))
    half = len(ears.batches) // 2
    for epoch in (ears.batches[:half], ears.batches[half:]):
        assert sorted(name for batch in epoch for name in batch) == sorted(durations)
    assert ears.batches[:half] != ears.batches[half:]
    assert all(len(batch) * max(map(durations.get, batch)) <= 3 + 1e-9 for batch in ears.batches)
    assert max(map(len, ears.batches)) == 5


def test_batch_seconds_decodes_nothing_before_the_first_batch(argv, tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        "hf_speechft.data.collate.load_audio", lambda clip, rate: decoded.append(clip) or torch.zeros(rate).numpy()
    )
    run = FineTuning(parse_arguments(argv(tmp_path, **SECONDS, max_steps=1)))
    ears = listen(run)
    assert len(run.trainer.get_train_dataloader()) > 3
    run.trainer.create_optimizer_and_scheduler(10)
    assert decoded == []
    run.trainer.train()
    assert ears.updates == [2]  # Accelerate looks one batch ahead
    assert len(decoded) == sum(map(len, ears.batches))


def test_batch_seconds_with_workers_makes_the_same_batches(argv, tmp_path):
    def lengths(**options):
        run = FineTuning(parse_arguments(argv(tmp_path, **SECONDS, **options)))
        return [batch["labels"].tolist() for batch in run.trainer.get_train_dataloader()]

    assert lengths(dataloader_num_workers=1) == lengths()


@pytest.mark.parametrize("batches", [{"per_device_train_batch_size": 8}, {"batch_seconds": 3}])
def test_balance_by_hears_speakers_equally_often_in_epochs_of_the_same_length(argv, tmp_path, unbalanced, batches):
    options = {"dataset": unbalanced, "balance_by": "accent", "num_train_epochs": 4, "save_strategy": "no"}
    options |= {"eval_strategy": "no", "load_best_model_at_end": False}
    run = FineTuning(parse_arguments(argv(tmp_path, **options, **batches)))
    ears, trainer = listen(run), run.trainer
    trainer.train()
    assert trainer.state.epoch == 4
    assert trainer.state.global_step == 4 * len(trainer.get_train_dataloader()) == 4 * trainer._updates_per_epoch()
    accents = dict(zip(run.splits["train"]["utterance_id"], run.splits["train"]["accent"], strict=True))
    heard = Counter(accents[name] for batch in ears.batches for name in batch)
    assert heard["north"] / heard.total() == pytest.approx(0.5, abs=0.05)  # 6 of 48 clips
    if "batch_seconds" not in batches:
        assert heard == {"north": 96, "south": 96}
    whole = [name for batch in ears.batches for name in batch]
    assert whole[: len(whole) // 4] != whole[len(whole) // 4 : len(whole) // 2]


@pytest.mark.parametrize("batches", [{"per_device_train_batch_size": 8}, {"batch_seconds": 3}])
def test_balance_by_draws_the_same_clips_where_a_run_is_resumed(argv, tmp_path, unbalanced, batches):
    options = {"dataset": unbalanced, "balance_by": "accent", "num_train_epochs": 2, "save_steps": 3}
    options |= {"save_strategy": "steps", "eval_strategy": "no", "load_best_model_at_end": False}
    options |= {**batches, "save_total_limit": 9}
    run = FineTuning(parse_arguments(argv(tmp_path / "whole", **options)))
    ears = listen(run)
    run.trainer.train()
    last = max((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    middle = tmp_path / "whole" / f"checkpoint-{run.trainer._updates_per_epoch() // 3 * 3 + 3}"
    assert middle.is_dir()
    assert middle != last
    resumed = FineTuning(parse_arguments(argv(tmp_path / "resumed", **options, resume_from_checkpoint=middle)))
    later = listen(resumed)
    resumed.trainer.train(str(middle))
    assert later.batches == ears.batches[-len(later.batches) :]
    for name, weight in run.trainer.model.state_dict().items():
        assert torch.equal(resumed.trainer.model.state_dict()[name], weight)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("dialect", "the training split has no column 'dialect' with classes; its columns are .*accent"),
        ("language", "--balance_by language: the clips have 1 classes, so there is nothing to balance"),
    ],
)
def test_balance_by_a_column_that_cannot_be_used_raises(argv, tmp_path, unbalanced, column, message):
    with pytest.raises(ValueError, match=message):
        FineTuning(parse_arguments(argv(tmp_path, dataset=unbalanced, balance_by=column)))


@pytest.fixture
def weights_after_one_update(argv, tmp_path):
    """A function that makes one update with eight utterances and returns the weights; nothing is random in it."""

    def train(name, **options):
        quiet = {"dropout": 0, "mask_time_prob": 0, "mask_feature_prob": 0, "optim": "sgd", "warmup_steps": 0}
        still = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "max_grad_norm": 0}
        values = quiet | still | {"max_steps": 1, "learning_rate": 0.1, "new_learning_rate": 0.1}
        run = FineTuning(parse_arguments(argv(tmp_path / name, **values | options)))
        config = run.trainer.model.speechbert.backbone.config
        for module in run.trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        config.attention_probs_dropout_prob = 0.0
        run.trainer.train_dataset = run.trainer.train_dataset.select(range(8))
        before = copy.deepcopy(run.trainer.model.state_dict())
        run.trainer.train()
        return before, run.trainer.model.state_dict()

    return train


def test_gradient_accumulation_of_full_batches_equals_one_large_batch(weights_after_one_update):
    """The loss is a mean over utterances: 2 x 4 and 8 give the same update up to the rounding of float32."""
    before, large = weights_after_one_update("large", per_device_train_batch_size=8)
    _, accumulated = weights_after_one_update(
        "accumulated", per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    for name, weight in large.items():
        torch.testing.assert_close(accumulated[name], weight, rtol=1e-4, atol=1e-6)
    assert sum(not torch.equal(before[name], large[name]) for name in large) > 20


def test_model_takes_no_item_count_for_its_loss(trainer):
    """Otherwise the Trainer would leave the division by the accumulation steps to the model."""
    assert trainer.model_accepts_loss_kwargs is False


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_save_checkpoint_on_a_full_disk_says_what_to_do(trainer, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(Trainer, "_save_checkpoint", fail)
    with pytest.raises(SaveError, match=r"disk is full.*those before it are whole\. Free space and give the same"):
        trainer._save_checkpoint(trainer.model, None)


def test_save_checkpoint_other_failure_passes_through(trainer, monkeypatch):
    def fail(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(Trainer, "_save_checkpoint", fail)
    with pytest.raises(RuntimeError, match="something else"):
        trainer._save_checkpoint(trainer.model, None)


def test_trainer_is_the_librarys():
    assert issubclass(SpeechTrainer, Trainer)
