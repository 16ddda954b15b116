"""The speech of a run: mixed, streamed, in any script and at any rate, from the arguments to the batch."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from hf_speechft import SpeechBertProcessor
from hf_speechft.data.collate import SpeechCollator
from hf_speechft.data.corpora import load_corpus
from hf_speechft.training.arguments import DataArguments
from hf_speechft.training.corpus import (
    advise_metric,
    describe_sources,
    list_transcripts,
    list_vocabulary_texts,
    mix_training_split,
    read_corpus,
)

SCRIPTS = {
    "Arabic": ["افْتَحِ النُّورَ", "أغلِق الباب، من فضلك!"],
    "Arabic without harakat": ["افتح النور", "أغلق الباب"],
    "Amharic": ["ብርሃኑን አብራ።", "በሩን ዝጋ፣ እባክህ"],
    "Chinese": ["打开客厅的灯。", "把空调调到二十六度"],
    "French": ["Fermez l’été, s'il vous plaît !", "cafe\u0301 au lait"],
    "Hindi": ["बत्ती जलाओ", "दरवाज़ा बंद करो।"],
}


def write_corpus(folder, texts, rate_hz=16_000):
    """Write an audio folder whose splits have these transcripts."""
    time_s = np.arange(round(0.6 * rate_hz)) / rate_hz
    for split in ("train", "validation", "test"):
        (folder / split).mkdir(parents=True)
        lines = ["file_name\ttranscription".replace("\t", ",")]
        for number, text in enumerate(texts):
            soundfile.write(folder / split / f"{split}{number}.wav", 0.3 * np.sin(6.28 * 440 * time_s), rate_hz)
            lines.append(f'{split}{number}.wav,"{text}"')
        (folder / split / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def make_processor(text_checkpoint, texts, normalizer="basic", **options):
    return SpeechBertProcessor.from_text_pretrained(
        str(text_checkpoint), texts=texts, vocabulary="char", text_normalizer=normalizer, **options
    )


@pytest.mark.parametrize("normalizer", ["basic", "cased", "none"])
def test_transcripts_of_any_script_become_units_and_text_again(normalizer, text_checkpoint, tmp_path):
    folder = write_corpus(tmp_path, [text for texts in SCRIPTS.values() for text in texts])
    train = load_corpus(folder, normalizer=normalizer)["train"]
    processor = make_processor(text_checkpoint, train["text"], normalizer)
    for text in train["text"]:
        ids = processor(text=text)["input_ids"][0].tolist()
        assert processor.tokenizer.unk_token_id not in ids
        assert processor.decode(ids, group_tokens=False) == text
    marks = set("،.!。።፣।") & set("".join(train["text"]))
    assert marks == (set() if normalizer == "basic" else set("،.!。።፣।") - {"."})


def test_vowel_signs_are_units_of_their_own_and_a_composed_letter_is_one(text_checkpoint, tmp_path):
    folder = write_corpus(tmp_path, ["افْتَحِ", "cafe\u0301"])
    texts = load_corpus(folder)["train"]["text"][:]
    units = set(make_processor(text_checkpoint, texts).tokenizer.get_vocab())
    assert {"\u064e", "\u0650", "\u0652", "\u00e9"} <= units
    assert "\u0301" not in units


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_telephone_recordings_are_resampled_or_taken_at_their_rate(rate_hz, text_checkpoint, tmp_path):
    train = load_corpus(write_corpus(tmp_path, ["one", "two"], rate_hz=8_000))["train"]
    assert train["duration_s"][:] == pytest.approx([0.6, 0.6])
    processor = make_processor(text_checkpoint, train["text"], sampling_rate=rate_hz, feature_size=40)
    batch = SpeechCollator(processor)(train.to_list())
    assert batch["input_features"].shape[0] == 2
    assert batch["attention_mask"].sum(1).tolist() == [58, 58]  # 25 ms every 10 ms in 0.6 s
    tone, _ = soundfile.read(train[0]["audio"]["path"], dtype="float32")
    if rate_hz == 8_000:
        alone = processor(audio=tone, sampling_rate=rate_hz)["input_features"]
        assert torch.allclose(batch["input_features"][:1], alone)
    with pytest.raises(ValueError, match="8000|16000"):
        processor(audio=tone, sampling_rate=24_000 - rate_hz)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two corpora: 12 utterances in "main", 4 in "more"."""
    folder = tmp_path_factory.mktemp("corpora")
    write_corpus(folder / "main", [f"main {'abcdefghijkl'[number]}" for number in range(12)])
    write_corpus(folder / "more", [f"more {'wxyz'[number]}" for number in range(4)])
    return folder


def mixed(corpora, **options):
    names = {"dataset": str(corpora / "main"), "mix_datasets": [str(corpora / "more")], "mix_weights": [1, 3]}
    return DataArguments(**(names | options))


def test_read_corpus_of_a_mix_joins_training_splits_and_evaluates_on_the_main_one(corpora, caplog):
    data = mixed(corpora)
    corpus = read_corpus(data, seed=0)
    assert len(corpus["train"]) == 16
    assert set(list_transcripts(corpus)) == {f"main {c}" for c in "abcdefghijkl"} | {f"more {c}" for c in "wxyz"}
    assert all(text.startswith("main") for name in ("validation", "test") for text in corpus[name]["text"])
    with caplog.at_level(logging.INFO, "hf_speechft"):
        train = mix_training_split(corpus["train"], data, seed=0)
    more = sum(text.startswith("more") for text in train["text"])
    assert set(train["text"]) == set(corpus["train"]["text"])  # all_exhausted
    assert more > len(train) / 2
    assert f"an epoch of the mix has {len(train)} clips: {len(train) - more} of main, {more} of more" in caplog.text


def test_read_corpus_of_a_streamed_mix_draws_from_both(corpora):
    corpus = read_corpus(mixed(corpora, streaming=True), seed=0)
    texts = list_transcripts(corpus)
    assert set(texts) == {f"main {c}" for c in "abcdefghijkl"} | {f"more {c}" for c in "wxyz"}
    assert sum(text.startswith("more") for text in texts) > len(texts) / 2
    assert len(corpus["validation"]) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mix_weights": []},
            "--mix_datasets: the weights are none, for the 2 corpora .*main, .*more",
        ),
        ({"mix_datasets": []}, "--mix_weights needs --mix_datasets"),
        ({"mix_stopping_strategy": "never"}, "the strategy is 'never'; choose one of"),
        ({"dataset": None}, "no data set was given; use --dataset"),
        ({"mix_datasets": ["/no/such/corpus"]}, "/no/such/corpus: no such file or folder"),
    ],
)
def test_read_corpus_of_a_mix_that_cannot_be_raises(options, message, corpora):
    with pytest.raises(ValueError, match=message):
        read_corpus(mixed(corpora, **options), seed=0)


def test_list_vocabulary_texts_adds_a_normalised_file(tmp_path):
    (tmp_path / "words.txt").write_text("Größe!\n\nKäse\n", encoding="utf-8")
    data = DataArguments(vocabulary_text=str(tmp_path / "words.txt"))
    assert list_vocabulary_texts(["ab"], data) == ["ab", "größe", "käse"]
    assert list_vocabulary_texts(["ab"], DataArguments()) == ["ab"]
    with pytest.raises(ValueError, match="--vocabulary_text .*gone: no such file"):
        list_vocabulary_texts(["ab"], DataArguments(vocabulary_text=str(tmp_path / "gone")))


@pytest.mark.parametrize(("metric", "said"), [("wer", True), ("eval_wer", True), ("cer", False), (None, False)])
def test_advise_metric_says_where_words_are_no_measure(metric, said, caplog):
    advise_metric(["打开客厅的灯"], metric)
    assert ("--metric_for_best_model cer" in caplog.text) == said
    advise_metric(["turn on the light"], metric)
    assert caplog.text.count("without spaces") == said


def test_describe_sources_says_what_was_mixed_and_streamed(corpora):
    assert describe_sources(DataArguments(dataset="demo")) == {}
    assert describe_sources(mixed(corpora, streaming=True)) == {
        "training data mixed": "25% main, 75% more",
        "training data streamed": "1000 utterances shuffled at a time",
    }


def test_list_transcripts_of_a_stream_takes_its_beginning(monkeypatch):
    stream = SimpleNamespace(take=lambda count: [{"text": f"text {number}"} for number in range(count)])
    monkeypatch.setattr("hf_speechft.training.corpus.STREAM_TRANSCRIPTS", 3)
    assert list_transcripts({"train": stream}) == ["text 0", "text 1", "text 2"]
