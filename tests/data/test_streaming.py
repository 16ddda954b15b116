"""Streams of corpora: the rows that `load_corpus` gives, read as they pass."""

import io
import math
import tarfile

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, IterableDataset

from hf_speechft.data import readers, streaming
from hf_speechft.data.corpora import COLUMNS, load_corpus
from hf_speechft.data.streaming import stream_corpus, stream_training_split


def encode(duration_s):
    file = io.BytesIO()
    soundfile.write(file, np.full(round(duration_s * 8_000), 0.1), 8_000, format="WAV")
    return file.getvalue()


def clips(split):
    """Name, sound, transcript and speaker of each utterance of a split."""
    for number in range(4):
        yield f"{split}{number}", encode(0.1 * (number + 1)), f"Wörd, {number}!", f"s{number % 2}"


def audio_folder(folder):
    for split in ("train", "validation", "test"):
        (folder / split).mkdir(parents=True)
        lines = ["file_name,transcription,speaker_id"]
        for name, sound, text, speaker in clips(split):
            (folder / split / f"{name}.wav").write_bytes(sound)
            lines.append(f'{name}.wav,"{text}",{speaker}')
        (folder / split / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def parquet_folder(folder):
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [
            {"audio": {"bytes": sound, "path": f"{name}.wav"}, "text": text, "speaker": speaker}
            for name, sound, text, speaker in clips(split)
        ]
        for shard in range(2):
            part = Dataset.from_list(rows[2 * shard : 2 * shard + 2]).cast_column("audio", Audio(decode=False))
            part.to_parquet(folder / f"{split}-{shard:05d}-of-00002.parquet")
    return folder


def tar_folder(folder):
    folder.mkdir()
    for split in ("train", "validation", "test"):
        with tarfile.open(folder / f"{split}-0.tar", "w") as archive:
            for name, sound, text, speaker in clips(split):
                for suffix, content in (("wav", sound), ("txt", text.encode()), ("speaker.json", None)):
                    content = content or f'{{"speaker_id": "{speaker}"}}'.encode()
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


LAYOUTS = {"audio folder": audio_folder, "parquet": parquet_folder, "tar": tar_folder}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stream_corpus_gives_the_rows_of_load_corpus(layout, tmp_path):
    folder = LAYOUTS[layout](tmp_path / "corpus")
    streamed, loaded = stream_corpus(folder), load_corpus(folder, cache_dir=tmp_path / "cache")
    assert isinstance(streamed["train"], IterableDataset)
    assert list(streamed["train"]) == loaded["train"].to_list()
    for name in ("validation", "test"):
        assert isinstance(streamed[name], Dataset)
        assert streamed[name].features["audio"] == Audio(decode=False)
        assert streamed[name].select_columns(COLUMNS).to_list() == loaded[name].to_list()


@pytest.mark.parametrize("layout", ["parquet", "tar"])
def test_stream_corpus_of_the_hub_matches_that_of_a_folder(layout, tmp_path, monkeypatch):
    folder = LAYOUTS[layout](tmp_path / "corpus")
    local = list(stream_corpus(folder)["train"])
    # What the Hub holds is found as in a folder of the same layout; only the addresses are others.
    monkeypatch.setattr(streaming, "find_local", lambda source: None)
    assert list(stream_corpus(folder, cache_dir=tmp_path / "cache")["train"]) == local


def test_stream_corpus_reads_nothing_of_the_training_split_before_it_is_asked(tmp_path, monkeypatch):
    folder = audio_folder(tmp_path / "corpus")
    read, asked = streaming.audio_duration_s, []
    monkeypatch.setattr(streaming, "audio_duration_s", lambda clip: asked.append(clip["path"]) or read(clip))
    train = stream_corpus(folder)["train"]
    assert not [path for path in asked if "/train/" in path]
    next(iter(train))
    assert len([path for path in asked if "/train/" in path]) == 1


def test_stream_corpus_unreadable_file_has_no_duration(tmp_path):
    folder = audio_folder(tmp_path / "corpus")
    (folder / "train" / "train1.wav").write_text("no sound")
    durations = [row["duration_s"] for row in stream_corpus(folder)["train"]]
    assert [math.isnan(duration) for duration in durations] == [False, True, False, False]


def test_stream_corpus_reads_what_lies_at_an_address(tmp_path):
    folder = audio_folder(tmp_path / "corpus")
    train = next(iter(stream_corpus(folder)["train"]))
    address = f"file://{train['audio']['path']}"
    assert streaming._fetch(address) == {"bytes": encode(0.1), "path": address}


def test_stream_corpus_without_validation_and_test_raises_naming_the_flags(tmp_path):
    folder = audio_folder(tmp_path / "corpus")
    with pytest.raises(ValueError, match="cannot be cut from a stream; name one with --validation_split and --test_"):
        stream_corpus(folder / "train")
    with pytest.raises(ValueError, match="no split 'dev'; the corpus has test, train, validation"):
        stream_corpus(folder, validation_split="dev")


def test_stream_corpus_missing_column_and_source_raise(tmp_path):
    folder = audio_folder(tmp_path / "corpus")
    with pytest.raises(ValueError, match="has no column 'words'; its columns are file_name, transcription"):
        stream_corpus(folder, text_column="words")
    with pytest.raises(ValueError, match="no such file or folder"):
        stream_corpus(tmp_path / "gone")
    with pytest.raises(ValueError, match="not found locally or on the Hub"):
        stream_corpus("nobody/nothing", cache_dir=tmp_path)


def test_stream_training_split_is_that_of_the_corpus(tmp_path):
    folder = audio_folder(tmp_path / "corpus")
    assert list(stream_training_split(folder)) == list(stream_corpus(folder)["train"])
    only = list(stream_training_split(folder / "train"))
    assert len(only) == 4


def test_open_source_of_a_dead_hub_says_so(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(readers, "load_dataset_builder", fail)
    with pytest.raises(ValueError, match="'a/b' was not found locally or on the Hub .no route."):
        stream_corpus("a/b")
