import pytest

from hf_speechft.apps.recognition_options import read_hotwords, read_phrases


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["zoltan"], {"zoltan": 5.0}),
        (["zoltan:8", "turn on:-2.5"], {"zoltan": 8.0, "turn on": -2.5}),
        (["8", "at 10:30 sharp"], {"8": 5.0, "at 10:30 sharp": 5.0}),
    ],
)
def test_read_hotwords_number_behind_the_last_colon_is_the_weight(options, expected):
    assert read_hotwords(options) == expected


def test_read_phrases_gives_lines_or_the_text_of_a_grammar(tmp_path):
    (tmp_path / "phrases.txt").write_text("turn on\n\n turn off \n")
    assert read_phrases(str(tmp_path / "phrases.txt")) == ["turn on", "turn off"]
    (tmp_path / "home.jsgf").write_text("#JSGF V1.0;\n")
    assert read_phrases(str(tmp_path / "home.jsgf")) == "#JSGF V1.0;\n"


def test_read_phrases_without_a_sentence_raises(tmp_path):
    (tmp_path / "phrases.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="has no sentences; write one a line"):
        read_phrases(str(tmp_path / "phrases.txt"))
