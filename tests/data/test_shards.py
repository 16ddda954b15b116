"""Shards: parquet and webdataset tar files, as splits and as streams."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset

from hf_speechft.data.corpora import load_corpus
from hf_speechft.data.shards import find_shards, is_pattern, read_shards, read_tars, stream_shards


def encode(duration_s=0.1, kind="FLAC", rate_hz=8_000):
    file = io.BytesIO()
    soundfile.write(file, np.full(round(duration_s * rate_hz), 0.1), rate_hz, format=kind)
    return file.getvalue()


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            content = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def utterance(name, text, **fields):
    return [(f"{name}.flac", encode()), (f"{name}.json", json.dumps({"text": text, **fields}, ensure_ascii=False))]


@pytest.fixture
def tars(tmp_path):
    """Two training shards and one each for validation and test."""
    for split, count in (("train", 2), ("dev", 1), ("test", 1)):
        for shard in range(count):
            files = [
                entry
                for number in range(3)
                for entry in utterance(f"{split}{shard}{number}", f"Word {number}!", speaker_id=f"s{number}")
            ]
            write_tar(tmp_path / "tars" / f"{split}-{shard:05d}.tar", files)
    return tmp_path / "tars"


@pytest.fixture
def parquets(tmp_path):
    """Two training shards and one each for validation and test."""
    for split, count in (("train", 2), ("validation", 1), ("test", 1)):
        for shard in range(count):
            rows = [
                {"audio": {"bytes": encode(), "path": f"{split}{shard}{number}.flac"}, "sentence": f"Word {number}!"}
                for number in range(3)
            ]
            folder = tmp_path / "parquets" / "data"
            folder.mkdir(parents=True, exist_ok=True)
            data = Dataset.from_list(rows).cast_column("audio", Audio(decode=False))
            data.to_parquet(folder / f"{split}-{shard:05d}-of-{count:05d}.parquet")
    return tmp_path / "parquets"


def test_find_shards_tells_splits_by_file_and_folder(tmp_path):
    files = ("train-0.tar", "train_1.tar", "data/dev-0.tar", "test/000.tar", "extra/000.tar", "speech-0.tar")
    for name in (*files, "speech-dev-1.tar", "cv_test_0.tar", "latest-0.tar"):
        write_tar(tmp_path / name, [])
    found = {
        split: [file.removeprefix(f"{tmp_path}/") for file in files] for split, files in find_shards(tmp_path).items()
    }
    assert found == {
        "train": ["latest-0.tar", "speech-0.tar", "train-0.tar", "train_1.tar"],
        "dev": ["speech-dev-1.tar", "data/dev-0.tar"],
        "test": ["cv_test_0.tar", "test/000.tar"],
    }


def test_find_shards_pattern_file_and_nothing(tars, tmp_path):
    pattern = f"{tars}/train-*.tar"
    assert is_pattern(pattern)
    assert find_shards(pattern) == {"train": [f"{tars}/train-00000.tar", f"{tars}/train-00001.tar"]}
    assert list(find_shards(tars / "test-00000.tar")) == ["test"]
    assert find_shards(tmp_path) == {}
    with pytest.raises(ValueError, match="no file fits the pattern"):
        find_shards(f"{tars}/none-*.tar")


def test_find_shards_of_both_kinds_raises(tars):
    (tars / "train.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="holds parquet and tar files; name those of one kind"):
        find_shards(tars)


@pytest.mark.parametrize("kind", ["tars", "parquets"])
def test_load_corpus_shards_become_splits(kind, request, tmp_path):
    corpus = load_corpus(request.getfixturevalue(kind), cache_dir=tmp_path / "cache")
    assert {name: len(split) for name, split in corpus.items()} == {"train": 6, "validation": 3, "test": 3}
    row = corpus["train"][4]
    assert row["text"] == "word 1"
    assert row["duration_s"] == pytest.approx(0.1)
    assert row["audio"]["bytes"] == encode()
    assert row["utterance_id"].removesuffix(".flac") == "train11"


@pytest.mark.parametrize("kind", ["tars", "parquets"])
def test_stream_shards_gives_the_rows_of_read_shards(kind, request, tmp_path):
    files = find_shards(request.getfixturevalue(kind))
    streams, splits = stream_shards(files), read_shards(files, tmp_path / "cache")
    assert list(streams) == list(splits)
    assert streams["train"].num_shards == 2
    for split, rows in splits.items():
        assert list(streams[split]) == rows.to_list()


def test_load_corpus_pattern_of_tars_is_cut_into_splits(tars, tmp_path):
    corpus = load_corpus(f"{tars}/train-*.tar", cache_dir=tmp_path / "cache")
    assert sum(map(len, corpus.values())) == 6


def test_read_shards_of_changed_tars_are_read_again(tars, tmp_path):
    files = {"train": [str(tars / "train-00000.tar")]}
    assert read_shards(files, tmp_path / "cache")["train"]["text"][0] == "Word 0!"
    write_tar(tars / "train-00000.tar", utterance("a", "Other words"))
    assert read_shards(files, tmp_path / "cache")["train"]["text"][:] == ["Other words"]


def test_read_tars_missing_sound_text_and_other_files_are_told_apart(tmp_path):
    files = [
        *utterance("a/1", "አማርኛ", speaker=7, words=["not", "text"]),
        ("._1.flac", "a hidden file of macOS"),
        ("a/2.txt", "no sound\n"),
        ("a/3.wav", encode(kind="WAV")),
    ]
    path = str(write_tar(tmp_path / "x.tar", files))
    rows = list(read_tars([path], ["utterance_id", "text", "speaker"]))
    assert [(row["utterance_id"], row["text"], row["speaker"]) for row in rows] == [
        ("a/1", "አማርኛ", "7"),
        ("a/2", "no sound", ""),
        ("a/3", "", ""),
    ]
    assert [row["audio"]["path"] for row in rows] == ["a/1.flac", None, "a/3.wav"]


def test_read_shards_columns_are_those_of_any_of_the_first_utterances(tmp_path):
    files = [("a.flac", encode()), *utterance("b", "two", speaker_id="s", note=None), *utterance("c", "three")]
    found = read_shards({"train": [str(write_tar(tmp_path / "x.tar", files))]}, tmp_path / "cache")["train"]
    assert (found["text"][:], found["speaker_id"][:], found["note"][:]) == (
        ["", "two", "three"],
        ["", "s", ""],
        [""] * 3,
    )


def test_stream_shards_tar_without_sound_or_that_is_none_raises(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.txt", "one"), ("b.txt", "two")])
    with pytest.raises(ValueError, match=r"its first files, a\.txt, hold no sound; an utterance is"):
        stream_shards({"train": [str(path)]})
    path.write_bytes(b"not a tar" * 200)
    with pytest.raises(ValueError, match="cannot be read as a tar file"):
        stream_shards({"train": [str(path)]})
