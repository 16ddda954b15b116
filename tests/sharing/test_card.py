"""Model cards: every number in the card is the number in the facts, and the metadata reads back."""

import re
from dataclasses import FrozenInstanceError, replace

import pytest
from huggingface_hub import ModelCard, metadata_eval_result

from hf_speechft.scoring.metrics import ErrorCounts
from hf_speechft.sharing.card import (
    TEMPLATE_PATH,
    CardFacts,
    ResultFacts,
    SampleFacts,
    SplitFacts,
    looks_like_hub_id,
    render_card,
)

# All numbers differ, so that one in another's place is noticed.
FACTS = CardFacts(
    model_name="MiniLM hears AN4",
    text_checkpoint="sentence-transformers/all-MiniLM-L6-v2",
    dataset_name="AN4",
    repo_id="user/minilm-an4",
    dataset_id="cmu/an4",
    language="en",
    license="apache-2.0",
    splits=(
        SplitFacts("train", 755, 2004.0, 59, {"too short": 2, "cannot be aligned": 1, "too long": 0}),
        SplitFacts("validation", 89, 246.0, 7, {"too short": 0}),
        SplitFacts("test", 130, 360.0),
    ),
    results=(
        ResultFacts(
            split="test",
            utterances=130,
            words=ErrorCounts(hits=640, substitutions=91, deletions=42, insertions=32),
            characters=ErrorCounts(hits=3011, substitutions=101, deletions=55, insertions=34),
            wer_interval=(0.1812, 0.2534),
            cer_interval=(0.0456, 0.0745),
        ),
    ),
    decoding="greedy",
    samples=tuple(SampleFacts(f"utt-{i}", f"reference {i}", f"hypothesis {i}") for i in (6, 3, 1, 5, 2, 4)),
    curves_file="training_curves.png",
    parameters=12_345_678,
    initialisation="text checkpoint",
    frontend="conv1d",
    subsampling=4,
    attention="bidirectional",
    vocabulary="char",
    vocabulary_size=29,
    feature_type="fbank",
    feature_size=80,
    sampling_rate_hz=16_000,
    text_normalizer="english",
    epochs=14,
    optimizer_steps=1988,
    batch_size=16,
    optimizer="AdamW",
    scheduler="one cycle",
    learning_rate=3e-4,
    head_learning_rate=9e-4,
    augmentation="SpecAugment, speeds 0.9 1.0 1.1",
    precision="float32",
    seed=11,
    more_settings={"weight decay": "0.01"},
    hardware="2 cores",
    training_minutes=26.04,
    command="accelerate launch run_finetune.py recipes/an4.yaml",
    versions={"hf_speechft": "0.1.0", "torch": "2.11.0"},
    more_limits=("The test speakers are from one city.",),
)
LEAST = CardFacts(model_name="name", text_checkpoint="some-folder", dataset_name="My recordings")


def section(card, title):
    """Return the text under a heading."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, re.DOTALL | re.MULTILINE)[1]


def table(text):
    """Return the cells of a Markdown table's rows, without header and rule."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


@pytest.fixture(scope="module")
def card():
    return render_card(FACTS)


def test_render_card_results_hold_known_numbers(card):
    # 91 + 42 + 32 = 165 errors in 773 words; 101 + 55 + 34 = 190 in 3167 characters.
    assert table(section(card, "Results")) == [
        ["test", "greedy", "WER", "21.35 %", "18.12 % to 25.34 %", "91", "42", "32", "773", "130"],
        ["test", "greedy", "CER", "6.00 %", "4.56 % to 7.45 %", "101", "55", "34", "3167", "130"],
    ]


def test_render_card_with_several_decodings_puts_the_usual_one_into_the_metadata():
    (greedy,) = FACTS.results
    better = replace(greedy, decoding="beam search, 4-gram", words=ErrorCounts(hits=700, substitutions=73))
    card = render_card(replace(FACTS, results=[greedy, better]))
    assert [row[:4] for row in table(section(card, "Results"))] == [
        ["test", "greedy", "WER", "21.35 %"],
        ["test", "greedy", "CER", "6.00 %"],
        ["test", "beam search, 4-gram", "WER", "9.44 %"],
        ["test", "beam search, 4-gram", "CER", "6.00 %"],
    ]
    assert [result.metric_value for result in ModelCard(card).data.eval_results] == [21.35, 6.0]


def test_render_card_results_header_names_the_columns(card):
    header = next(line for line in section(card, "Results").splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "Split",
        "Decoding",
        "Measure",
        "Rate",
        "95 % interval",
        "Substitutions",
        "Deletions",
        "Insertions",
        "Reference length",
        "Utterances",
    ]


def test_render_card_data_holds_known_numbers(card):
    assert table(section(card, "Data")) == [
        ["train", "755", "0.56", "33.4", "59", "3 (2 too short, 1 cannot be aligned)"],
        ["validation", "89", "0.07", "4.1", "7", "0"],
        ["test", "130", "0.10", "6.0", "not recorded", "not recorded"],
    ]
    assert "[AN4](https://huggingface.co/datasets/cmu/an4)" in section(card, "Data")


def test_render_card_recipe_holds_known_settings(card):
    assert dict(table(section(card, "Recipe"))) == {
        "text checkpoint": "sentence-transformers/all-MiniLM-L6-v2",
        "initialisation of the body": "text checkpoint",
        "parameters": "12,345,678",
        "front-end": "conv1d",
        "subsampling": "4x",
        "attention": "bidirectional",
        "vocabulary": "char",
        "vocabulary size": "29",
        "features": "fbank",
        "feature size": "80",
        "sampling rate": "16000 Hz",
        "text normaliser": "english",
        "epochs": "14",
        "optimizer steps": "1988",
        "batch size": "16",
        "optimizer": "AdamW",
        "learning-rate schedule": "one cycle",
        "learning rate, body": "0.0003",
        "learning rate, front-end and head": "0.0009",
        "augmentation": "SpecAugment, speeds 0.9 1.0 1.1",
        "precision": "float32",
        "seed": "11",
        "weight decay": "0.01",
    }
    assert "Training time: 26.0 minutes. Hardware: 2 cores." in card
    assert "```bash\naccelerate launch run_finetune.py recipes/an4.yaml\n```" in card


def test_render_card_samples_are_first_five_by_id(card):
    samples = section(card, "Sample outputs")
    assert table(samples) == [[f"utt-{i}", f"reference {i}", f"hypothesis {i}"] for i in range(1, 6)]
    assert "The first 5 utterances of the test split by id" in samples


def test_render_card_says_how_to_use(card):
    usage = section(card, "How to use")
    assert 'pipeline("automatic-speech-recognition", model="user/minilm-an4", trust_remote_code=True)' in usage
    assert "hf-speechft transcribe speech.wav --model user/minilm-an4" in usage
    code = re.search(r"```python\n(.*?)```", usage, re.DOTALL)[1]
    compile(code, "card", "exec")


def test_render_card_limits_and_versions_are_said(card):
    limits = section(card, "Limits")
    assert "trained on 0.56 hours of speech from AN4" in limits
    assert "models that were pre-trained on audio (wav2vec2, Whisper) are more accurate" in limits
    assert "It listens at 16000 Hz" in limits
    assert limits.strip().endswith("- The test speakers are from one city.")
    assert section(card, "Versions").strip() == "hf_speechft 0.1.0, torch 2.11.0"
    assert "![Loss, error rates and learning rate during training](training_curves.png)" in card
    assert "not recorded" not in section(card, "Recipe")


def test_render_card_metadata_round_trips(card, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(card, encoding="utf-8")
    data = ModelCard.load(path).data
    assert data.model_name == "MiniLM hears AN4"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "automatic-speech-recognition"
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.datasets == ["cmu/an4"]
    assert (data.language, data.license) == ("en", "apache-2.0")
    found = [
        (r.task_type, r.dataset_type, r.dataset_name, r.dataset_split, r.metric_type, r.metric_value, r.verified)
        for r in data.eval_results
    ]
    task = "automatic-speech-recognition"
    assert found == [
        (task, "cmu/an4", "AN4", "test", "wer", 21.35, False),
        (task, "cmu/an4", "AN4", "test", "cer", 6.0, False),
    ]


def test_render_card_metadata_matches_metadata_eval_result(card):
    expected = metadata_eval_result(
        model_pretty_name="MiniLM hears AN4",
        task_pretty_name="Automatic Speech Recognition",
        task_id="automatic-speech-recognition",
        metrics_pretty_name="WER (%)",
        metrics_id="wer",
        metrics_value=21.35,
        dataset_pretty_name="AN4",
        dataset_id="cmu/an4",
        dataset_split="test",
        metrics_verified=False,
    )["model-index"][0]
    ours = ModelCard(card).data.to_dict()["model-index"][0]
    assert ours["name"] == expected["name"]
    assert ours["results"][0]["task"] == expected["results"][0]["task"]
    assert ours["results"][0]["dataset"] == expected["results"][0]["dataset"]
    assert ours["results"][0]["metrics"][0] == expected["results"][0]["metrics"][0]


def test_render_card_two_splits_stay_apart():
    other = replace(FACTS.results[0], split="validation", words=ErrorCounts(hits=9, deletions=1), utterances=3)
    card = render_card(replace(FACTS, results=(FACTS.results[0], other)))
    assert [row[:4] for row in table(section(card, "Results"))][2] == ["validation", "greedy", "WER", "10.00 %"]
    found = {(r.dataset_split, r.metric_type): r.metric_value for r in ModelCard(card).data.eval_results}
    assert found[("test", "wer")] == 21.35
    assert found[("validation", "wer")] == 10.0


def test_render_card_least_facts_says_not_recorded(tmp_path):
    card = render_card(LEAST)
    for title in ("Results", "Sample outputs", "Versions"):
        assert section(card, title).strip() == "not recorded"
    assert "My recordings" in section(card, "Data")
    settings = dict(table(section(card, "Recipe")))
    assert settings.pop("text checkpoint") == "some-folder"
    assert set(settings.values()) == {"not recorded"}
    assert "Training time: not recorded. Hardware: not recorded." in card
    assert "Command: not recorded." in card
    assert "None" not in card
    assert "![" not in card
    data = ModelCard(card).data
    assert data.eval_results is None
    assert data.base_model is None
    assert data.license is None
    assert data.datasets is None


def test_render_card_local_dataset_has_a_type():
    card = render_card(replace(FACTS, dataset_id=None, dataset_name="My recordings (2026)"))
    assert {r.dataset_type for r in ModelCard(card).data.eval_results} == {"my-recordings-2026"}
    assert ModelCard(card).data.datasets is None


def test_render_card_without_interval_says_not_recorded():
    result = replace(FACTS.results[0], wer_interval=None)
    rows = table(section(render_card(replace(FACTS, results=(result,))), "Results"))
    assert [row[4] for row in rows] == ["not recorded", "4.56 % to 7.45 %"]


def test_render_card_interval_of_zero_is_a_number():
    result = replace(FACTS.results[0], words=ErrorCounts(hits=10), wer_interval=(0.0, 0.0))
    rows = table(section(render_card(replace(FACTS, results=(result,))), "Results"))
    assert rows[0][3:8] == ["0.00 %", "0.00 % to 0.00 %", "0", "0", "0"]


def test_render_card_zero_settings_are_numbers():
    settings = dict(table(section(render_card(replace(FACTS, seed=0, learning_rate=0.0)), "Recipe")))
    assert settings["seed"] == "0"
    assert settings["learning rate, body"] == "0"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a | b", r"a \| b"),
        ("two\nlines", "two lines"),
        ("<script>", "&lt;script>"),
        ("{{ card_data }}", "{{ card_data }}"),
        ("", "(nothing)"),
        ("مرحبا", "مرحبا"),
    ],
)
def test_render_card_odd_text_stays_in_its_cell(text, cell):
    card = render_card(replace(FACTS, samples=(SampleFacts("id", text, "x"),)))
    assert table(section(card, "Sample outputs")) == [["id", cell, "x"]]


@pytest.mark.parametrize("name", ["yes: no", '"quoted"', "# hash", "a\nb", "- dash", "日本語"])
def test_render_card_odd_names_round_trip_in_metadata(name):
    data = ModelCard(render_card(replace(FACTS, model_name=name, dataset_name=name, dataset_id=None))).data
    assert data.model_name == name
    assert data.eval_results[0].dataset_name == name


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("google-bert/bert-base-uncased", True),
        ("answerdotai/ModernBERT-base", True),
        ("bert-base-uncased", False),
        ("./model", False),
        ("/tmp/model", False),
        ("~/model", False),
        ("a/b/c", False),
        ("C:\\models\\bert", False),
        ("", False),
    ],
)
def test_looks_like_hub_id_tells_ids_from_paths(name, is_id):
    assert looks_like_hub_id(name) == is_id


def test_looks_like_hub_id_existing_folder_is_not_an_id(tmp_path, monkeypatch):
    (tmp_path / "models" / "bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not looks_like_hub_id("models/bert")
    assert ModelCard(render_card(replace(FACTS, text_checkpoint="models/bert"))).data.base_model is None


def test_card_facts_are_frozen():
    with pytest.raises(FrozenInstanceError):
        FACTS.seed = 2


def test_card_template_is_beside_its_module():
    assert TEMPLATE_PATH.name == "card_template.md"
    assert TEMPLATE_PATH.is_file()
