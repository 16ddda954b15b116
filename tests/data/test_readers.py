"""Manifests and folders: what is parsed, how paths and words survive, and what a broken file says."""

import json
import zipfile

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict

from hf_speechft.data.readers import read_manifest, read_source, split_role


@pytest.fixture
def clips(tmp_path):
    """A folder with a.wav, b.wav and sub/c.wav."""
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "b.wav", "sub/c.wav"):
        soundfile.write(tmp_path / name, np.zeros(1_600), 16_000)
    return tmp_path


def paths_of(split, column="audio"):
    return [clip["path"] for clip in split[column]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "audio,text\na.wav,one\nsub/c.wav,two\n"),
        ("m.csv", "\ufeffaudio,text\r\na.wav,one\r\nsub/c.wav,two\r\n"),
        ("m.tsv", "audio\ttext\na.wav\tone\nsub/c.wav\ttwo\n"),
        ("m.jsonl", '{"audio": "a.wav", "text": "one"}\n\n{"audio": "sub/c.wav", "text": "two"}\n'),
        ("m.json", '{"audio": "a.wav", "text": "one"}\n{"audio": "sub/c.wav", "text": "two"}\n'),
        ("m.json", '[{"audio": "a.wav", "text": "one"},\n {"audio": "sub/c.wav", "text": "two"}]'),
    ],
)
def test_read_manifest_every_format_gives_the_same_rows(name, content, clips):
    (clips / name).write_bytes(content.encode())
    split = read_manifest(clips / name)
    assert paths_of(split) == [str(clips / "a.wav"), str(clips / "sub/c.wav")]
    assert split["text"][:] == ["one", "two"]
    assert split["utterance_id"][:] == ["a.wav", "sub/c.wav"]
    assert split.features["audio"] == Audio(decode=False)


def test_read_manifest_parquet_matches_csv(clips):
    table = {"audio": ["a.wav"], "text": ["one"]}
    Dataset.from_dict(table).to_parquet(clips / "m.parquet")
    split = read_manifest(clips / "m.parquet")
    assert paths_of(split) == [str(clips / "a.wav")]
    assert split["text"][:] == ["one"]


def test_read_manifest_parquet_with_sound_inside_keeps_its_bytes(clips):
    content = (clips / "a.wav").read_bytes()
    split = Dataset.from_dict({"audio": [{"bytes": content, "path": "a.wav"}], "text": ["one"]})
    split.to_parquet(clips / "m.parquet")
    assert read_manifest(clips / "m.parquet")[0]["audio"]["bytes"] == content


def test_read_manifest_absolute_and_home_paths_are_kept(clips, monkeypatch):
    monkeypatch.setenv("HOME", str(clips))
    (clips / "m.csv").write_text(f"audio,text\n{clips}/sub/c.wav,one\n~/b.wav,two\n")
    split = read_manifest(clips / "m.csv")
    assert paths_of(split) == [str(clips / "sub/c.wav"), str(clips / "b.wav")]
    assert split["utterance_id"][:] == ["c.wav", "b.wav"]


def test_read_manifest_words_that_look_like_missing_values_and_numbers_stay(clips):
    (clips / "m.csv").write_text("audio,text,speaker\na.wav,null,007\nb.wav,NA,1.0\nsub/c.wav,,\n")
    split = read_manifest(clips / "m.csv")
    assert split["text"][:] == ["null", "NA", ""]
    assert split["speaker"][:] == ["007", "1.0", ""]


def test_read_manifest_quotes_and_commas_in_transcripts_round_trip(clips):
    (clips / "m.csv").write_text('audio,text\na.wav,"well, ""yes"""\n')
    (clips / "m.tsv").write_text('audio\ttext\na.wav\t"well, yes\n')
    assert read_manifest(clips / "m.csv")["text"][:] == ['well, "yes"']
    assert read_manifest(clips / "m.tsv")["text"][:] == ['"well, yes']


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl"])
def test_read_manifest_unicode_line_separators_stay_inside_a_transcript(name, clips):
    text = "one\u2028two\x85three\x0bfour"
    separator = "\t" if name == "m.tsv" else ","
    row = json.dumps({"audio": "a.wav", "text": text}, ensure_ascii=False)
    content = row if name == "m.jsonl" else f"audio{separator}text\na.wav{separator}{text}\n"
    (clips / name).write_text(content, encoding="utf-8")
    if name == "m.jsonl":
        text = json.loads(row)["text"]
    assert read_manifest(clips / name)["text"][:] == [text]


def test_read_manifest_nemo_columns_are_read(clips):
    rows = [{"audio_filepath": "a.wav", "duration": 0.1, "text": "one", "offset": 0}]
    (clips / "m.json").write_text("\n".join(map(json.dumps, rows)))
    split = read_manifest(clips / "m.json")
    assert paths_of(split, "audio_filepath") == [str(clips / "a.wav")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "audio,text\na.wav,one\nb.wav,well, yes\n", r"m\.csv, line 3, has 3 fields and the header has 2"),
        ("m.csv", "audio,text\na.wav\n", "line 2, has 1 fields.*put quotes round"),
        ("m.tsv", "audio\ttext\na.wav\n", "line 2, has 1 fields.*check the tabs"),
        ("m.csv", "audio,text\n", "has no rows"),
        ("m.csv", "", "has no rows"),
        ("m.csv", 'audio,text\na.wav,"' + "word " * 30_000, r"m\.csv, line 2, cannot be parsed: field larger"),
        ("m.csv", "sound,text\na.wav,one\n", "no column with the audio files' names; its columns are sound, text"),
        ("m.jsonl", '{"audio": "a.wav"}\n{"audio": \n', r"m\.jsonl, line 2, is not JSON"),
        ("m.json", '[{"audio": "a.wav"},\n{"audio" "b.wav"}]', r"m\.json, line 2, is not JSON"),
        ("m.jsonl", '["a.wav", "one"]\n', "line 1, holds str; each row is a JSON object"),
        ("m.jsonl", '{"audio": "a.wav", "text": "x", "offset": 3.5}\n', r"cuts segments.*offset 3\.5 s"),
        ("m.txt", "a.wav one\n", r"m\.txt is not a manifest; use one of the formats \.csv"),
    ],
)
def test_read_manifest_broken_file_raises_naming_the_place(name, content, message, clips):
    (clips / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_manifest(clips / name)


def test_read_manifest_other_encoding_raises(clips):
    (clips / "m.csv").write_bytes("audio,text\na.wav,größer\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"m\.csv is not UTF-8"):
        read_manifest(clips / "m.csv")


def test_read_manifest_named_audio_column_is_used_or_reported(clips):
    (clips / "m.csv").write_text("sound,text\na.wav,one\n")
    assert paths_of(read_manifest(clips / "m.csv", "sound"), "sound") == [str(clips / "a.wav")]
    with pytest.raises(ValueError, match="no column 'wave'; its columns are sound, text"):
        read_manifest(clips / "m.csv", "wave")


@pytest.mark.parametrize(
    ("name", "role"), [("train", "train"), ("Training", "train"), ("dev", "validation"), ("eval", "test"), ("x", None)]
)
def test_split_role_usual_names_are_known(name, role):
    assert split_role(name) == role


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
    split.save_to_disk(tmp_path / "one")
    DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path / "both")
    assert list(read_source(tmp_path / "one")) == ["train"]
    assert set(read_source(tmp_path / "both")) == {"train", "test"}


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
