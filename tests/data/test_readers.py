"""Folders, files and the Hub: which kind a source is, and what is said of one that cannot be read."""

import zipfile

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict

from hf_speechft.data import readers
from hf_speechft.data.readers import read_source


@pytest.fixture
def clips(tmp_path):
    """A folder with a.wav, b.wav and sub/c.wav."""
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "b.wav", "sub/c.wav"):
        soundfile.write(tmp_path / name, np.zeros(1_600), 16_000)
    return tmp_path


def paths_of(split, column="audio"):
    return [clip["path"] for clip in split[column]]


def test_read_source_split_folders_keep_their_names(clips):
    for name in ("training", "dev", "valid", "extra"):
        (clips / name).mkdir()
        (clips / name / "metadata.jsonl").write_text('{"file_name": "x.wav", "transcription": "one"}\n')
    assert set(read_source(clips)) == {"training", "dev", "valid", "extra"}


def test_read_source_one_metadata_file_for_all_splits_is_cut_by_folder(clips):
    rows = "train/a.wav,one\ntest/b.wav,two\ntrain/c.wav,three\n"
    (clips / "metadata.csv").write_text("file_name,transcription\n" + rows)
    splits = read_source(clips)
    assert {name: split["transcription"][:] for name, split in splits.items()} == {
        "train": ["one", "three"],
        "test": ["two"],
    }


def test_read_source_root_metadata_with_splits_and_other_folders_raises(clips):
    (clips / "metadata.csv").write_text("file_name,text\ntrain/a.wav,one\ndev/b.wav,two\nextra/c.wav,three\nd.wav,x\n")
    with pytest.raises(
        ValueError, match="names files in dev, which are not to be trained on, and in '', 'extra', which"
    ):
        read_source(clips)


def test_read_source_webdataset_of_the_hub_raises_with_what_to_do(monkeypatch):
    monkeypatch.setattr(readers, "open_builder", lambda *_: object.__new__(readers.WebDataset))
    with pytest.raises(
        ValueError, match="lab/speech' consists of webdataset tar files; .*--streaming true, or get them"
    ):
        read_source("lab/speech")


def test_read_source_root_metadata_with_speaker_folders_is_one_split(clips):
    (clips / "metadata.csv").write_text("file_name,transcription\nsub/c.wav,one\na.wav,two\n")
    splits = read_source(clips)
    assert list(splits) == ["train"]
    assert paths_of(splits["train"], "file_name")[0] == str(clips / "sub/c.wav")


def test_read_source_folder_of_manifests_is_read(clips):
    for name in ("train", "val", "notes"):
        (clips / f"{name}.csv").write_text("audio,text\na.wav,one\n")
    assert set(read_source(clips)) == {"train", "val"}


def test_read_source_folder_with_data_inside_is_read(clips):
    (clips / "data" / "train").mkdir(parents=True)
    (clips / "data" / "train" / "metadata.csv").write_text("file_name,text\nx.wav,one\n")
    assert list(read_source(clips)) == ["train"]


def test_read_source_saved_dataset_is_read(tmp_path, clips):
    split = Dataset.from_dict({"audio": [str(clips / "a.wav")], "text": ["one"]}).cast_column(
        "audio", Audio(decode=False)
    )
    decoding = split.cast_column("audio", Audio())
    decoding.save_to_disk(tmp_path / "one")
    DatasetDict({"train": split, "test": decoding}).save_to_disk(tmp_path / "both")
    one, both = read_source(tmp_path / "one"), read_source(tmp_path / "both")
    assert list(one) == ["train"]
    assert set(both) == {"train", "test"}
    for data in (*one.values(), *both.values()):
        assert next(iter(data.to_iterable_dataset()))["audio"]["path"].endswith("a.wav")  # without torchcodec


def test_read_source_copy_of_a_hub_repository_in_parquet_is_read(tmp_path, clips):
    content = (clips / "a.wav").read_bytes()
    split = Dataset.from_dict({"audio": [{"bytes": content, "path": "a.wav"}], "text": ["one"]})
    split = split.cast_column("audio", Audio(16_000, decode=False))
    for name in ("train", "test"):
        (tmp_path / "copy" / "data").mkdir(parents=True, exist_ok=True)
        split.to_parquet(tmp_path / "copy" / "data" / f"{name}-00000-of-00001.parquet")
    splits = read_source(tmp_path / "copy", cache_dir=tmp_path / "cache")
    assert set(splits) == {"train", "test"}
    assert splits["train"][0]["audio"]["bytes"] == content


def test_read_source_zipped_audio_folder_is_read_without_torchcodec(tmp_path, clips):
    (clips / "metadata.csv").write_text("file_name,transcription\na.wav,one\n")
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "train.zip", "w") as archive:
        for name in ("metadata.csv", "a.wav"):
            archive.write(clips / name, name)
    splits = read_source(tmp_path / "zipped", cache_dir=tmp_path / "cache")
    clip = splits["train"][0]["audio"]
    assert clip == {"bytes": (clips / "a.wav").read_bytes(), "path": "zip://a.wav"}


def test_read_source_folder_without_a_corpus_raises_saying_what_to_write(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ValueError, match=r"holds no corpus: .*metadata\.csv with the columns file_name"):
        read_source(tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "~/missing", "missing.csv", "a/b/c", "clip.wav"])
def test_read_source_missing_path_raises_as_a_path(name):
    with pytest.raises(ValueError, match="no such file or folder"):
        read_source(name)


@pytest.mark.parametrize("name", ["librispech", "someone/missing"])
def test_read_source_unreachable_hub_id_raises_with_the_remedy(name, tmp_path):
    with pytest.raises(ValueError, match=f"'{name}' was not found locally or on the Hub.*check the spelling"):
        read_source(name, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (datasets.exceptions.DatasetNotFoundError("'a/b' is a gated dataset"), "not found.*gated.*hf auth login"),
        (datasets.exceptions.DatasetGenerationError("download broke"), "not found.*download broke"),
        (RuntimeError("Dataset scripts are no longer supported"), "cannot be loaded.*scripts.*parquet"),
    ],
)
def test_read_source_hub_failure_raises_value_error(error, message, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("hf_speechft.data.readers.load_dataset_builder", fail)
    with pytest.raises(ValueError, match=message):
        read_source("a/b")


def test_read_source_mapping_of_manifests_keeps_the_split_names(clips):
    (clips / "m.csv").write_text("audio,text\na.wav,one\n")
    splits = read_source({"train": clips / "m.csv", "other": str(clips / "m.csv")})
    assert list(splits) == ["train", "other"]
    with pytest.raises(ValueError, match=r"gone\.csv: no such file or folder"):
        read_source({"train": clips / "gone.csv"})


def test_read_source_mapping_to_a_folder_of_several_splits_raises(clips):
    for name in ("train", "test"):
        (clips / f"{name}.csv").write_text("audio,text\na.wav,one\n")
    with pytest.raises(ValueError, match="holds the splits test, train; name the folder of one of them"):
        read_source({"train": clips})
