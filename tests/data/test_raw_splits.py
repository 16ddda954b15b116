"""Raw splits: names of splits, and columns of audio files."""

import pytest

from hf_speechft.data.raw_splits import UndecodedAudio, looks_remote, name_audio_files, split_role


@pytest.mark.parametrize(
    ("name", "role"), [("train", "train"), ("Training", "train"), ("dev", "validation"), ("eval", "test"), ("x", None)]
)
def test_split_role_usual_names_are_known(name, role):
    assert split_role(name) == role


def test_name_audio_files_keeps_order_and_writes_missing_values_as_empty_text():
    split = name_audio_files({"clip": ["/b.wav", "/a.wav"], "text": ["one", None], "age": [7, 8]}, "clip", ["b", "a"])
    assert split[0] == {"clip": {"bytes": None, "path": "/b.wav"}, "text": "one", "age": "7", "utterance_id": "b"}
    assert split["text"][:] == ["one", ""]


def test_undecoded_audio_stores_paths_and_bytes_without_a_decoder(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"sound")
    feature = UndecodedAudio(decode=False)
    assert feature.encode_example("/a.wav") == {"bytes": None, "path": "/a.wav"}
    assert feature.encode_example(b"sound") == {"bytes": b"sound", "path": None}
    stored = feature.encode_example(f"file://{tmp_path}/a.wav")
    assert stored == {"bytes": b"sound", "path": f"file://{tmp_path}/a.wav"}


@pytest.mark.parametrize(("path", "remote"), [("hf://datasets/a/b.wav", True), ("/data/b.wav", False)])
def test_looks_remote_tells_addresses_from_paths(path, remote):
    assert looks_remote(path) == remote
