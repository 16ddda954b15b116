import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_speechft.data.text import (
    NORMALIZERS,
    lacks_spaces,
    normalize_basic,
    normalize_english,
    normalize_text,
    read_sentences,
    read_text,
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Turn ON the lights!", "turn on the lights"),
        ("  two\tspaces\n here  ", "two spaces here"),
        ("don't, 'quoted' dogs' o'clock", "don't quoted dogs o'clock"),
        ("DON\u2019T \u2018so\u2019", "don't so"),
        ("yes,no;maybe", "yes no maybe"),
        ("Head-Mounted — Displays…", "head mounted displays"),
        ("Für die größere Straße", "für die größere straße"),
        ("fu\u0308r", "f\u00fcr"),
        ("\ufb01ne \uff21\uff22", "fine ab"),
        ("l\u2019eau ng\u2019ombe", "l'eau ng'ombe"),
        ("خَلْف\u060c نعم\u061f", "خَلْف نعم"),  # vowel signs stay, the Arabic comma and question mark go
        ("ሰላም፣ ዓለም።", "ሰላም ዓለም"),
        ("नमस्ते, दुनिया।", "नमस्ते दुनिया"),
        ("\u200fنعم\u200e \ufeffsoft\u00adhyphen", "نعم softhyphen"),
        ("21 °C & 50%", "21 c 50"),
        ("İyi günler, IŞIK", "iyi günler işik"),
        ("love it \u2764\ufe0f", "love it"),
        ("1\ufe0f\u20e3", "1"),  # a digit in a frame
        ("好的，打开 Wi-Fi 吧。", "好的 打开 wi fi 吧"),
        ("'", ""),
        ("...!?", ""),
        ("", ""),
    ],
)
def test_normalize_basic_examples_give_words_only(text, wanted):
    assert normalize_basic(text) == unicodedata.normalize("NFKC", wanted)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ENTER TWO NINE", "enter two nine"),
        ("It\u2019s the dogs\u2019 well-known café.", "it's the dogs well known cafe"),
        ("U.S.A., Mr. O'Neill", "usa mr o'neill"),
        ("50% off & more @ home", "50 percent off and more at home"),
        ("and/or_so—then…stop", "and or so then stop"),
        ("naïve Zoë", "naive zoe"),
        ("'tis \u201cquoted\u201d", "tis quoted"),
        ("21 degrees", "21 degrees"),
    ],
)
def test_normalize_english_examples_are_written_as_in_librispeech(text, wanted):
    assert normalize_english(text) == wanted


def test_normalize_text_none_changes_nothing():
    assert normalize_text(" A  b! ", "none") == " A  b! "


@pytest.mark.parametrize("name", ["", "Basic", "whisper"])
def test_normalize_text_unknown_name_raises_listing_the_known(name):
    with pytest.raises(ValueError, match=f"text normaliser '{name}' is unknown; choose one of: none, basic, english"):
        normalize_text("x", name)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  Hello, Dr.\tSmith!\u00a0", "Hello, Dr. Smith!"),
        ("fu\u0308r Cafe\u0301", "f\u00fcr Caf\u00e9"),
        ("\uff21\ufb01", "\uff21\ufb01"),  # NFC keeps what NFKC makes A and fi
        ("\u200fهَلْ أنتَ؟\u200e", "هَلْ أنتَ؟"),
        ("你好，世界。", "你好，世界。"),
    ],
)
def test_normalize_cased_examples_keep_case_and_punctuation(text, wanted):
    assert normalize_text(text, "cased") == wanted


@pytest.mark.parametrize(
    ("texts", "lacks"),
    [
        (["打开客厅的灯", "把空调调到二十六度"], True),
        (["リビングの電気をつけて"], True),
        (["เปิดไฟห้องนั่งเล่น"], True),
        (["거실 불을 켜 줘"], False),
        (["افتح النور", "ብርሃኑን አብራ"], False),
        (["turn on 灯"], False),
        (["བཀྲ་ཤིས་བདེ་ལེགས"], False),  # Tibetan separates syllables
        ([], False),
        (["123"], False),
    ],
)
def test_lacks_spaces_knows_scripts_without_them(texts, lacks):
    assert lacks_spaces(texts) == lacks


# a busy machine is no failure
@given(st.text())
@pytest.mark.parametrize("name", list(NORMALIZERS))
def test_normalize_text_applied_twice_round_trips(name, text):
    once = normalize_text(text, name)
    assert normalize_text(once, name) == once


# a busy machine is no failure
@given(st.text())
def test_normalize_basic_any_text_keeps_only_letters_marks_digits_and_inner_apostrophes(text):
    for word in normalize_basic(text).split(" "):
        assert not word.startswith("'")
        assert not word.endswith("'")
        assert all(c == "'" or unicodedata.category(c)[0] in "LMN" for c in word)


@pytest.mark.parametrize("name", [name for name in NORMALIZERS if name != "none"])
def test_normalizers_say_where_they_come_from(name):
    assert "Source:" in NORMALIZERS[name].__doc__


def test_read_text_takes_a_byte_order_mark_and_umlauts(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffkäse\n".encode())
    assert read_text(str(tmp_path / "a.txt")) == "käse\n"


@pytest.mark.parametrize(("content", "message"), [(b"\xff\xfe\x00", "not a text file in UTF-8"), (None, "cannot be")])
def test_read_text_of_unreadable_file_raises(content, message, tmp_path):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text(str(tmp_path / "a.txt"))


def test_read_sentences_leaves_out_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff turn on \r\n\n  \nstop".encode())
    assert read_sentences(tmp_path / "a.txt", "--lm_text") == ["turn on", "stop"]


def test_read_sentences_of_a_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match="--lm_text .*gone: no such file; give a text file .* a line, or nothing"):
        read_sentences(tmp_path / "gone", "--lm_text", ", or nothing")
