"""Manifests: what is parsed, how paths and words survive, and what a broken file says."""

import json

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from datasets import Audio, Dataset
from pyarrow import parquet as pq

from hf_speechft.data.manifests import read_manifest


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


def test_read_manifest_transcript_of_two_lines_is_one(clips):
    (clips / "m.csv").write_text('audio,text,speaker\na.wav,"one\ntwo, three",s\n')
    assert read_manifest(clips / "m.csv")["text"][:] == ["one\ntwo, three"]


def test_read_manifest_nan_of_pandas_is_a_missing_value(clips):
    (clips / "m.jsonl").write_text('{"audio": "a.wav", "text": NaN}\n{"audio": "b.wav", "text": "nan"}\n')
    assert read_manifest(clips / "m.jsonl")["text"][:] == ["", "nan"]


def test_read_manifest_parquet_looks_at_the_audio_column_alone(clips):
    rows = {"audio": ["a.wav"], "text": ["one"], "tags": [["x", "y"]]}
    Dataset.from_dict(rows).to_parquet(clips / "names.parquet")
    assert paths_of(read_manifest(clips / "names.parquet")) == [str(clips / "a.wav")]
    pq.write_table(pa.table({"audio": [(clips / "a.wav").read_bytes()], "text": ["one"]}), clips / "bytes.parquet")
    sound = read_manifest(clips / "bytes.parquet").cast_column("audio", Audio(decode=False))["audio"][0]
    assert sound["bytes"] == (clips / "a.wav").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "audio,text\na.wav,one\nb.wav,well, yes\n", r"m\.csv, line 3, has 3 fields and the header has 2"),
        ("m.csv", "audio,text\na.wav\n", "line 2, has 1 fields.*put quotes round"),
        ("m.tsv", "audio\ttext\na.wav\n", "line 2, has 1 fields.*check the tabs"),
        ("m.csv", "audio,text\n", "has no rows"),
        ("m.csv", "", "has no rows"),
        ("m.csv", 'audio,text\na.wav,"' + "word " * 30_000, r"m\.csv, line 2, cannot be parsed: field larger"),
        ("m.csv", 'audio,text\na.wav,"I am\nb.wav,two\n', r"m\.csv, line 3, cannot be parsed: unexpected end of data"),
        ("m.csv", 'audio,text\na.wav,"I am\nb.wav,here"\n', "line 3, ends a field with a line break and what looks"),
        ("m.csv", 'audio,text\na.wav,"I" am\n', "line 2, cannot be parsed: ',' expected after"),
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
