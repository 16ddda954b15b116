import numpy as np
import pytest
import soundfile
from datasets import Audio

from hf_speechft.data.audio_files import list_audio_files


def test_list_audio_files_finds_all_kinds_at_any_depth_in_the_order_of_their_paths(tmp_path):
    for name in ("b/2.flac", "b/c/1.WAV", "a.mp3", ".cache/x.wav", "b/.hidden.wav", "b/notes.txt", "metadata.xml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.wav").mkdir()
    found = list_audio_files(tmp_path)
    assert found["utterance_id"][:] == ["a.mp3", "b/2.flac", "b/c/1.WAV"]
    assert found.features["audio"] == Audio(decode=False)
    assert found[1]["audio"] == {"bytes": None, "path": str(tmp_path / "b" / "2.flac")}


def test_list_audio_files_takes_a_folder_below_a_hidden_one(tmp_path):
    (tmp_path / ".data").mkdir()
    soundfile.write(tmp_path / ".data" / "a.wav", np.zeros(100), 8_000)
    assert list_audio_files(tmp_path / ".data")["utterance_id"][:] == ["a.wav"]


def test_list_audio_files_without_any_raises(tmp_path):
    with pytest.raises(ValueError, match=r"has no audio files \(looked for .*\.flac"):
        list_audio_files(tmp_path)
