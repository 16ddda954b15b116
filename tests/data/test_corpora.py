"""Whole corpora: any layout becomes three splits with the same columns."""

import csv
import logging
import math
import pickle

import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, DatasetDict

from hf_speechft.data import corpora
from hf_speechft.data.audio import AudioError, load_audio
from hf_speechft.data.corpora import COLUMNS, filter_corpus, load_corpus, load_recordings


def write_clip(path, duration_s=0.5, rate_hz=8_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(duration_s * rate_hz), 0.1), rate_hz)


def write_rows(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def audio_folder(folder, splits=("train", "validation", "test"), clips=4, speakers=2):
    """Write a small audio folder; clip n of a split lasts 0.1 * (n + 1) s."""
    for split in splits:
        rows = []
        for number in range(clips):
            name = f"{split}{number}.wav"
            write_clip(folder / split / name, 0.1 * (number + 1))
            rows.append([name, f"Word {number}!", number % speakers])
        write_rows(folder / split / "metadata.csv", ["file_name", "transcription", "speaker_id"], rows)
    return folder


def single_split(folder, speakers, utterances_each, order=None):
    rows = [
        [f"s{speaker}u{number}.wav", "word", f"s{speaker}"]
        for speaker in range(speakers)
        for number in range(utterances_each)
    ]
    for name, _, _ in rows:
        write_clip(folder / name, 0.1)
    rows = rows if order is None else [rows[index] for index in order]
    write_rows(folder / "metadata.csv", ["file_name", "text", "speaker"], rows)
    return folder


def names(split):
    return set(split["utterance_id"][:])


def test_load_corpus_audio_folder_has_the_splits_and_columns(tmp_path):
    corpus = load_corpus(audio_folder(tmp_path))
    assert isinstance(corpus, DatasetDict)
    assert list(corpus) == ["train", "validation", "test"]
    for split in corpus.values():
        assert set(split.column_names) == set(COLUMNS)
        assert split.features["audio"] == Audio(decode=False)
    row = corpus["test"][2]
    assert row == {
        "audio": {"bytes": None, "path": str(tmp_path / "test" / "test2.wav")},
        "text": "word 2",
        "speaker_id": "0",
        "duration_s": pytest.approx(0.3),
        "utterance_id": "test2.wav",
    }
    assert len(load_audio(row["audio"], 16_000)) == 4_800


def test_load_corpus_survives_pickling_selecting_and_concatenating(tmp_path):
    corpus = load_corpus(audio_folder(tmp_path))
    split = pickle.loads(pickle.dumps(corpus["train"])).select([3, 1])
    assert split["text"][:] == ["word 3", "word 1"]
    assert split[0]["audio"]["path"].endswith("train3.wav")


@pytest.mark.parametrize("normalizer", ["none", "basic"])
def test_load_corpus_text_is_normalised_as_named(normalizer, tmp_path):
    corpus = load_corpus(audio_folder(tmp_path), normalizer=normalizer)
    assert corpus["train"][0]["text"] == {"none": "Word 0!", "basic": "word 0"}[normalizer]


def test_load_corpus_unknown_normalizer_raises_before_reading():
    with pytest.raises(ValueError, match="text normaliser 'wispher' is unknown"):
        load_corpus("/no/such/folder", normalizer="wispher")


def test_load_corpus_train_and_test_only_cuts_validation_from_train(tmp_path):
    audio_folder(tmp_path, splits=("train", "test"), clips=20, speakers=10)
    corpus = load_corpus(tmp_path)
    assert len(corpus["test"]) == 20
    assert len(corpus["train"]) + len(corpus["validation"]) == 20
    assert not names(corpus["train"]) & names(corpus["validation"])
    assert not set(corpus["train"]["speaker_id"]) & set(corpus["validation"]["speaker_id"])
    assert sum(corpus["validation"]["duration_s"]) / sum(0.1 * n for n in range(1, 21)) == pytest.approx(0.1, abs=0.04)


def test_load_corpus_train_and_validation_only_cuts_test_from_train(tmp_path):
    corpus = load_corpus(audio_folder(tmp_path, splits=("train", "dev"), clips=10, speakers=1))
    assert len(corpus["validation"]) == 10
    assert (len(corpus["train"]), len(corpus["test"])) == (9, 1)


def test_load_corpus_one_split_is_cut_with_speakers_apart(tmp_path):
    corpus = load_corpus(single_split(tmp_path, speakers=10, utterances_each=3))
    assert {name: len(split) for name, split in corpus.items()} == {"train": 24, "validation": 3, "test": 3}
    voices = [set(split["speaker_id"]) for split in corpus.values()]
    assert sum(map(len, voices)) == len(set.union(*voices)) == 10


def test_load_corpus_cut_is_invariant_to_the_order_of_rows(tmp_path):
    first = load_corpus(single_split(tmp_path / "a", 6, 2))
    second = load_corpus(single_split(tmp_path / "b", 6, 2, order=np.random.default_rng(0).permutation(12)))
    assert {name: names(split) for name, split in first.items()} == {name: names(s) for name, s in second.items()}
    other_seed = load_corpus(tmp_path / "a", seed=4)
    assert {name: names(s) for name, s in other_seed.items()} != {name: names(s) for name, s in first.items()}


def test_load_corpus_only_a_test_split_is_cut_with_a_warning(tmp_path, caplog):
    corpus = load_corpus(audio_folder(tmp_path, splits=("test",), clips=10, speakers=10))
    assert len(corpus["train"]) == 8
    assert "the only split is 'test': it is cut" in caplog.text


@pytest.mark.parametrize("names_of_splits", [("Train", "Dev", "TEST"), ("training", "valid", "evaluation")])
def test_load_corpus_other_usual_split_names_are_found(names_of_splits, tmp_path):
    corpus = load_corpus(audio_folder(tmp_path, splits=names_of_splits))
    prefixes = [split[0]["utterance_id"].removesuffix("0.wav") for split in corpus.values()]
    assert prefixes == list(names_of_splits)


def test_load_corpus_two_utterances_raise(tmp_path):
    with pytest.raises(ValueError, match="2 utterances cannot be cut into 3 parts"):
        load_corpus(single_split(tmp_path, 1, 2))


def test_load_corpus_named_splits_are_joined_or_reported(tmp_path):
    audio_folder(tmp_path, splits=("clean", "other", "test"))
    corpus = load_corpus(tmp_path, train_split="clean+other", validation_split=None)
    assert len(corpus["train"]) + len(corpus["validation"]) == 8
    with pytest.raises(ValueError, match="no split 'noisy'; the corpus has clean, other, test; .*--train_split"):
        load_corpus(tmp_path, train_split="noisy")
    with pytest.raises(ValueError, match="no split 'train'; the corpus has clean, other, test"):
        load_corpus(tmp_path)


def test_load_corpus_validates_on_nothing_that_is_trained_on_or_tested(tmp_path):
    audio_folder(tmp_path, splits=("train", "dev", "test"))
    joined = load_corpus(tmp_path, train_split="train+validation")
    assert names(joined["train"]) | names(joined["validation"]) == {
        f"{s}{n}.wav" for s in ("train", "dev") for n in range(4)
    }
    assert not names(joined["train"]) & names(joined["validation"])
    assert names(joined["test"]) == {f"test{n}.wav" for n in range(4)}
    tested = load_corpus(tmp_path, test_split="dev")
    assert names(tested["test"]) == {f"dev{n}.wav" for n in range(4)}
    assert names(tested["train"]) | names(tested["validation"]) == {f"train{n}.wav" for n in range(4)}
    same = load_corpus(tmp_path, validation_split="dev", test_split="dev")  # as asked for
    assert names(same["validation"]) == names(same["test"])
    with pytest.raises(ValueError, match="--validation_split dev is trained on too; name another, or leave it out"):
        load_corpus(tmp_path, train_split="train+dev", validation_split="dev")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"split 'train' has no text column \(looked for text, .*its columns are file_name, words, who; .*--text"),
        ({"text_column": "wrods"}, "has no column 'wrods'; its columns are file_name, words, who"),
        ({"text_column": "words", "speaker_column": "speakr"}, "has no column 'speakr'; its columns .*--speaker_col"),
        (
            {"text_column": "words", "audio_column": "sound"},
            "no column 'sound'; its columns are file_name, words, who",
        ),
    ],
)
def test_load_corpus_missing_column_raises_listing_the_columns(arguments, message, tmp_path):
    write_clip(tmp_path / "a.wav")
    write_rows(tmp_path / "metadata.csv", ["file_name", "words", "who"], [["a.wav", "one", "s"]])
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path, **arguments)


def test_load_corpus_named_columns_are_used(tmp_path):
    rows = [[f"{n}.wav", f"decoy {n}", f"Real {n}", f"s{n}"] for n in range(10)]
    for name, *_ in rows:
        write_clip(tmp_path / name)
    write_rows(tmp_path / "m.csv", ["clip", "text", "words", "who"], rows)
    corpus = load_corpus(tmp_path / "m.csv", audio_column="clip", text_column="words", speaker_column="who")
    texts = {row["text"]: row["speaker_id"] for split in corpus.values() for row in split}
    assert texts == {f"real {n}": f"s{n}" for n in range(10)}


def test_load_corpus_class_column_is_kept_as_text_in_the_training_split(tmp_path):
    rows = [[f"{n}.wav", "word", f"s{n}", region] for n, region in enumerate((1, 2, "", 1))]
    for name, *_ in rows:
        write_clip(tmp_path / name)
    write_rows(tmp_path / "m.csv", ["path", "text", "who", "region"], rows)
    splits = dict.fromkeys(("train", "validation", "test"), tmp_path / "m.csv")
    corpus = load_corpus(splits, class_column="region")
    assert dict(zip(corpus["train"]["utterance_id"], corpus["train"]["region"], strict=True)) == {
        "0.wav": "1", "1.wav": "2", "2.wav": "", "3.wav": "1",
    }  # fmt: skip
    assert corpus["test"].column_names == list(COLUMNS)
    assert load_corpus(splits, class_column="speaker_id")["train"].column_names == list(COLUMNS)
    with pytest.raises(ValueError, match="no column 'town' with classes; its columns are path, text, who, region"):
        load_corpus(splits, class_column="town")


def test_load_corpus_missing_and_broken_files_are_counted_and_named(tmp_path, caplog):
    rows = [[f"{n}.wav", "word"] for n in range(6)]
    for name, _ in rows[:4]:
        write_clip(tmp_path / name)
    (tmp_path / "3.wav").write_bytes((tmp_path / "3.wav").read_bytes()[:1_000])
    (tmp_path / "4.wav").write_text("not sound")
    write_rows(tmp_path / "m.csv", ["path", "sentence"], rows)
    with caplog.at_level(logging.WARNING):
        train = load_corpus({name: tmp_path / "m.csv" for name in ("train", "validation", "test")})["train"]
    assert "train: 3 of 6 audio files cannot be read, first: " in caplog.text
    assert [math.isnan(duration_s) for duration_s in train["duration_s"]] == [False] * 3 + [True] * 3
    kept, report = filter_corpus(train, name="train")
    assert len(kept) == 3
    assert report.dropped == {"unreadable audio": ["3.wav", "4.wav", "5.wav"]}


def test_load_corpus_no_readable_file_raises_with_the_first_reason(tmp_path):
    write_rows(tmp_path / "m.csv", ["path", "sentence"], [[f"{n}.wav", "word"] for n in range(4)])
    with pytest.raises(ValueError, match=r"none of the 4 audio files of split 'train' .*0\.wav does not exist"):
        load_corpus(tmp_path / "m.csv")


def test_load_corpus_empty_transcripts_are_kept_for_the_filter_to_name(tmp_path):
    rows = [[f"{n}.wav", "" if n == 1 else "!?" if n == 2 else "word"] for n in range(5)]
    for name, _ in rows:
        write_clip(tmp_path / name)
    write_rows(tmp_path / "m.csv", ["audio", "text"], rows)
    train = load_corpus({name: tmp_path / "m.csv" for name in ("train", "validation", "test")})["train"]
    assert filter_corpus(train)[1].dropped == {"empty transcript": ["1.wav", "2.wav"]}


def test_load_corpus_files_of_equal_names_get_unique_ids(tmp_path):
    rows = [[str(tmp_path / folder / "clip.wav"), "word"] for folder in "abc"]
    for name, _ in rows:
        write_clip(tmp_path / name)
    write_rows(tmp_path / "m.csv", ["audio", "text"], rows)
    corpus = load_corpus(tmp_path / "m.csv")
    assert sorted(name for split in corpus.values() for name in names(split)) == [
        "clip.wav#0",
        "clip.wav#1",
        "clip.wav#2",
    ]


def test_load_corpus_saved_dataset_with_bytes_numbers_and_labels_is_read(tmp_path):
    write_clip(tmp_path / "a.wav")
    content = (tmp_path / "a.wav").read_bytes()
    columns = {
        "sound": [{"bytes": content, "path": None}] * 4,
        "label": [0, 1, 1, 0],
        "speaker": [7.0, 8.0, None, 9.0],
        "id": [11, 12, 13, 14],
    }
    split = Dataset.from_dict(columns).cast_column("sound", Audio(decode=False))
    split = split.cast_column("label", ClassLabel(names=["Yes", "No"]))
    DatasetDict({name: split for name in ("train", "validation", "test")}).save_to_disk(tmp_path / "saved")
    train = load_corpus(tmp_path / "saved", text_column="label")["train"]
    assert train["text"][:] == ["yes", "no", "no", "yes"]
    assert train["speaker_id"][:] == ["7", "8", "", "9"]
    assert train["utterance_id"][:] == ["11", "12", "13", "14"]
    assert train["duration_s"][:] == [0.5] * 4
    assert train[0]["audio"]["bytes"] == content


def librispeech_tree(root):
    """Write two or three utterances for each split of a LibriSpeech tree."""
    splits = ("train-clean-100", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
    for number, split in enumerate(splits):
        chapter = root / split / f"{100 + number}" / "7"
        lines = []
        for utterance in range(2 + number % 2):
            name = f"{100 + number}-7-{utterance:04d}"
            write_clip(chapter / f"{name}.flac", rate_hz=16_000)
            lines.append(f"{name} SPLIT {split.upper()}")
        (chapter / f"{100 + number}-7.trans.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("inner", ["LibriSpeech", ""])
def test_load_corpus_librispeech_tree_joins_its_splits(inner, tmp_path):
    librispeech_tree(tmp_path / inner)
    corpus = load_corpus(tmp_path)
    assert {name: len(split) for name, split in corpus.items()} == {"train": 5, "validation": 5, "test": 2}
    assert set(corpus["train"]["text"]) == {"split train clean 100", "split train other 500"}
    assert set(corpus["train"]["speaker_id"]) == {"100", "101"}
    assert set(corpus["test"]["text"]) == {"split test clean"}
    assert corpus["test"]["utterance_id"][:] == ["104-7-0000", "104-7-0001"]
    assert corpus["test"]["duration_s"][:] == [0.5, 0.5]


def test_load_corpus_librispeech_splits_can_be_named(tmp_path):
    librispeech_tree(tmp_path)
    corpus = load_corpus(
        tmp_path, train_split="train-clean-100", validation_split="dev-clean", test_split="test-clean+test-other"
    )
    assert {name: len(split) for name, split in corpus.items()} == {"train": 2, "validation": 2, "test": 5}


def test_load_corpus_path_of_one_librispeech_split_is_cut(tmp_path):
    librispeech_tree(tmp_path)
    corpus = load_corpus(tmp_path / "train-other-500")
    assert {name: len(split) for name, split in corpus.items()} == {"train": 1, "validation": 1, "test": 1}


def test_load_corpus_is_quick_to_fail_on_a_missing_path_or_hub_id(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        load_corpus(tmp_path / "gone")
    with pytest.raises(ValueError, match="not found locally or on the Hub"):
        load_corpus("nobody/nothing", cache_dir=tmp_path)


def test_load_corpus_demo_is_the_builtin_corpus(monkeypatch):
    from hf_speechft.data import demo

    monkeypatch.setattr(demo, "load_demo", lambda seed, cache_dir: (seed, cache_dir))
    assert load_corpus("demo", seed=3, cache_dir="here") == (3, "here")


def test_data_package_names_import_on_first_use():
    import hf_speechft.data as data

    assert all(getattr(data, name) is not None for name in data.__all__)
    assert set(data.__all__) <= set(dir(data))
    with pytest.raises(AttributeError, match="no attribute 'load_corpse'"):
        _ = data.load_corpse


@pytest.mark.speech
@pytest.mark.parametrize(
    ("name", "utterances", "minutes", "speakers"),
    [
        ("an4", (755, 89, 130), (33.4, 4.1, 6.0), (59, 7, 10)),
        ("librispeech_4h", (1060, 125, 180), (221.3, 25.0, 37.7), (19, 3, 4)),
        ("arabic_commands", (600, 240, 240), (10.0, 4.0, 4.0), (15, 6, 6)),
        ("ljspeech", (27, 3, 9), (3.0, 0.4, 1.0), (1, 1, 1)),
    ],
)
def test_load_corpus_real_speech_matches_its_description(name, utterances, minutes, speakers, speech_folder):
    corpus = load_corpus(speech_folder / name)
    assert tuple(map(len, corpus.values())) == utterances
    assert tuple(sum(split["duration_s"]) / 60 for split in corpus.values()) == pytest.approx(minutes, abs=0.1)
    assert tuple(len(set(split["speaker_id"])) for split in corpus.values()) == speakers


@pytest.mark.speech
def test_load_corpus_noise_without_transcripts_raises(speech_folder):
    with pytest.raises(ValueError, match="no text column .*its columns are file_name, category"):
        load_corpus(speech_folder / "noise_esc10")


@pytest.fixture
def header_reads(monkeypatch, tmp_path):
    """A function that loads a corpus, its cache in `tmp_path / "cache"`, and counts the headers that it reads."""
    reads, read = [], corpora.audio_duration_s
    monkeypatch.setattr(corpora, "CACHED_FROM_CLIPS", 1)
    monkeypatch.setattr(corpora, "audio_duration_s", lambda clip: reads.append(clip["path"]) or read(clip))

    def load(source):
        reads.clear()
        train = load_corpus(source, cache_dir=tmp_path / "cache")["train"]
        return len(reads), train["duration_s"][:]

    return load


def test_load_corpus_again_takes_durations_from_the_cache(tmp_path, header_reads):
    audio_folder(tmp_path / "corpus")
    reads, durations = header_reads(tmp_path / "corpus")
    assert reads == 12
    assert durations == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert header_reads(tmp_path / "corpus") == (0, durations)


def test_load_corpus_reads_the_headers_of_a_split_with_a_changed_file_again(tmp_path, header_reads):
    audio_folder(tmp_path / "corpus")
    header_reads(tmp_path / "corpus")
    write_clip(tmp_path / "corpus" / "train" / "train1.wav", 0.9)
    reads, durations = header_reads(tmp_path / "corpus")
    assert reads == 4
    assert durations == pytest.approx([0.1, 0.9, 0.3, 0.4])


def test_load_corpus_tries_unreadable_files_again(tmp_path, header_reads, monkeypatch):
    audio_folder(tmp_path / "corpus")
    with monkeypatch.context() as context:
        context.setattr(corpora, "audio_duration_s", _fail_for("train2.wav", corpora.audio_duration_s))
        _, durations = header_reads(tmp_path / "corpus")
        assert math.isnan(durations[2])
    assert header_reads(tmp_path / "corpus") == (4, pytest.approx([0.1, 0.2, 0.3, 0.4]))
    assert header_reads(tmp_path / "corpus")[0] == 0


def _fail_for(name, read):
    def fail(clip):
        if clip["path"].endswith(name):
            raise AudioError("needs another package")
        return read(clip)

    return fail


def test_load_corpus_saved_dataset_is_not_written_into_and_its_durations_are_kept(tmp_path, header_reads):
    write_clip(tmp_path / "a.wav")
    split = Dataset.from_dict({"audio": [str(tmp_path / "a.wav")] * 4, "text": ["word"] * 4})
    split = split.cast_column("audio", Audio(decode=False))
    DatasetDict({name: split for name in ("train", "validation", "test")}).save_to_disk(tmp_path / "saved")
    before = sorted((tmp_path / "saved").rglob("*"))
    assert header_reads(tmp_path / "saved")[0] == 4  # the splits are equal
    assert header_reads(tmp_path / "saved") == (0, [0.5] * 4)
    (tmp_path / "other").write_text("a file")
    load_corpus(tmp_path / "saved", cache_dir=tmp_path / "other")
    assert sorted((tmp_path / "saved").rglob("*")) == before


def test_load_corpus_where_the_cache_cannot_be_written_reads_the_headers(tmp_path, header_reads):
    audio_folder(tmp_path / "corpus")
    (tmp_path / "cache").write_text("a file")
    assert header_reads(tmp_path / "corpus")[0] == 12
    assert header_reads(tmp_path / "corpus")[0] == 12


def test_load_recordings_of_a_plain_folder_needs_nothing_but_audio(tmp_path):
    for number, name in enumerate(("b.wav", "a/b.wav", "a/a.flac")):
        write_clip(tmp_path / name, 0.2 * (number + 1))
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    (tmp_path / "notes.csv").write_text("file,remark\n")
    recordings = load_recordings(tmp_path)
    assert recordings.column_names == ["audio", "duration_s", "utterance_id"]
    assert recordings["utterance_id"][:] == ["a/a.flac", "a/b.wav", "b.wav", "broken.wav"]
    assert recordings["duration_s"][:3] == pytest.approx([0.6, 0.4, 0.2])
    assert math.isnan(recordings["duration_s"][3])
    assert len(load_audio(recordings[2]["audio"], 16_000)) == 3_200


def test_load_recordings_keeps_the_order_and_the_transcripts_of_the_source(tmp_path):
    rows = [["z.wav", "Hello, You!"], ["a.wav", ""]]
    for name, _ in rows:
        write_clip(tmp_path / name)
    write_rows(tmp_path / "metadata.csv", ["file_name", "transcription"], rows)
    recordings = load_recordings(tmp_path)
    assert recordings["utterance_id"][:] == ["z.wav", "a.wav"]
    assert recordings["reference"][:] == ["Hello, You!", ""]


def test_load_recordings_of_a_manifest_without_transcripts(tmp_path):
    write_clip(tmp_path / "a.wav")
    write_rows(tmp_path / "calls.csv", ["file_name", "caller"], [["a.wav", "x"]])
    assert load_recordings(tmp_path / "calls.csv").column_names == ["audio", "duration_s", "utterance_id"]
    with pytest.raises(ValueError, match="has no column 'said'; its columns are file_name, caller"):
        load_recordings(tmp_path / "calls.csv", text_column="said")
    assert load_recordings(tmp_path / "calls.csv", text_column="caller")["reference"][:] == ["x"]


def test_load_recordings_takes_the_splits_that_are_named(tmp_path):
    folder = audio_folder(tmp_path, clips=2)
    assert load_recordings(folder, split="validation")["utterance_id"][:] == ["validation0.wav", "validation1.wav"]
    both = load_recordings(folder, split="test+train")
    assert both["utterance_id"][:] == ["test0.wav", "test1.wav", "train0.wav", "train1.wav"]
    with pytest.raises(ValueError, match=r"has the splits test, train, validation; name one with --split"):
        load_recordings(folder)
    with pytest.raises(ValueError, match="there is no split 'other'; the corpus has test, train, validation"):
        load_recordings(folder, split="train+other")


def test_load_recordings_of_a_folder_without_audio_raises(tmp_path):
    with pytest.raises(ValueError, match="has no audio files"):
        load_recordings(tmp_path)
