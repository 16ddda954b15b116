from pathlib import Path

import pytest

from hf_speechft.apps.files import Format, output_paths, write_text


def test_write_text_makes_the_folder(tmp_path):
    write_text(tmp_path / "new" / "a.srt", "ä\n")
    assert (tmp_path / "new" / "a.srt").read_bytes() == "ä\n".encode()


def test_write_text_where_a_folder_is_raises(tmp_path):
    with pytest.raises(ValueError, match="cannot be written"):
        write_text(tmp_path, "text")


def test_output_paths_are_named_after_the_inputs():
    assert output_paths(["a/talk.mp3", "b.wav"], "out", Format.SRT) == [Path("out/talk.srt"), Path("out/b.srt")]
    assert output_paths(["a.wav"], "out", Format.TEXT) == [Path("out/a.txt")]


def test_output_paths_of_two_inputs_with_one_name_raise():
    with pytest.raises(ValueError, match="a/x.wav and b/x.mp3 would both be written to .* with different folders"):
        output_paths(["a/x.wav", "b/x.mp3"], "out", Format.JSON)
