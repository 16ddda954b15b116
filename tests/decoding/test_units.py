import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_speechft.decoding.confidence import number_words
from hf_speechft.decoding.units import _byte_level_alphabet, read_units
from tests.decoding.brute_force import BLANKS, STYLES, written_words


@pytest.mark.parametrize("style", STYLES)
@given(data=st.data())
def test_words_of_any_tokens_match_string_replacement(style, data):
    tokens = STYLES[style]
    units = read_units(tokens, BLANKS[style])
    searched = [index for index in range(len(tokens)) if units.is_searched[index]]
    ids = data.draw(st.lists(st.sampled_from(searched), max_size=8))
    expected = written_words(style, [tokens[index] for index in ids])
    assert units.words(ids) == expected
    assert units.text(ids) == ("" if style == "no word marks" else " ").join(expected)


@pytest.mark.parametrize("style", STYLES)
@given(data=st.data())
def test_can_write_accepts_what_tokens_write_and_finds_foreign_characters(style, data):
    units = read_units(STYLES[style], BLANKS[style])
    searched = [index for index in range(len(STYLES[style])) if units.is_searched[index]]
    text = units.text(data.draw(st.lists(st.sampled_from(searched), max_size=8)))
    assert units.can_write(text) == bool(text)
    assert not units.can_write(text + "é")
    assert units.unknown_characters(text + " é") == ["é"]


@pytest.mark.parametrize(
    ("tokens", "text", "is_possible"),
    [
        (["<pad>", "##b", "a"], "ab", True),
        (["<pad>", "##b", "a"], "ba", False),  # behind a continuation, "a" begins a word
        (["<pad>", "▁ab", "c"], "ab c", False),
        (["<pad>", "▁ab", "c"], "abc", True),
        (["<pad>", "Ġa", "b"], "ba", False),
    ],
)
def test_can_write_follows_the_words_that_tokens_begin(tokens, text, is_possible):
    assert read_units(tokens, 0).can_write(text) == is_possible


def test_units_without_word_marks_keep_combining_marks_with_their_letters():
    units = read_units(["<pad>", "ด", "ิ", "เป"], 0)
    assert units.words([1, 2, 3, 2, 1]) == ["ดิ", "เ", "ปิ", "ด"]
    assert units.text([1, 2, 3, 2, 1]) == "ดิเปิด"
    assert units.spaced(" ดิเปิ ด") == "ดิ เ ปิ ด"
    assert units.can_write("เปิด")
    assert not units.can_write("เด")


def test_spaced_of_units_with_word_marks_has_single_spaces():
    assert read_units(["<pad>", "|", "a", "b"], 0).spaced(" ab  a ") == "ab a"


def test_byte_level_alphabet_is_that_of_a_trained_tokenizer():
    from tokenizers import pre_tokenizers

    ours = _byte_level_alphabet()
    assert sorted(ours) == sorted(pre_tokenizers.ByteLevel.alphabet())
    for text in ["naïve ключ 好", "tab\tnew\n"]:
        pieces = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
        written = "".join(piece for piece, _ in pieces)
        assert bytes(ours[character] for character in written) == text.encode()


def test_read_units_joins_characters_that_are_split_over_byte_tokens():
    alphabet = {byte: character for character, byte in _byte_level_alphabet().items()}
    first, second = (alphabet[byte] for byte in "é".encode())
    units = read_units(["<pad>", "Ġcaf", first, second], 0)
    assert units.text([1, 2, 3]) == "café"
    assert units.can_write("café")


@pytest.mark.parametrize("special", ["<s>", "</s>", "<unk>", "[CLS]", "[unused7]", ""])
def test_read_units_never_searches_special_tokens(special):
    assert read_units(["<pad>", "|", "a", special], 0).is_searched.tolist() == [False, True, True, False]


def test_read_units_reads_byte_fallback_tokens_as_bytes():
    assert read_units(["<blank>", "▁a", "<0xC3>", "<0xA9>"], 0).text([1, 2, 3]) == "aé"


@pytest.mark.parametrize("delimiter", ["|", " ", "<space>"])
def test_read_units_takes_usual_delimiters(delimiter):
    units = read_units(["<pad>", delimiter, "a"], 0)
    assert units.text([1, 2, 1, 1, 2]) == "a a"


@pytest.mark.parametrize(
    ("tokens", "written"),
    [
        (["<pad>", "|", "a", "\xa0"], "a a"),
        (["<pad>", "|", "a", "\u3000"], "a a"),
        (["<pad>", "Ġa", "a", "Ċ"], "a a"),  # a line feed in byte-level BPE
        (["<pad>", "<unk>", "a", "\u3000"], "aa"),
    ],
)
def test_read_units_takes_other_white_space_for_a_space(tokens, written):
    units = read_units(tokens, 0)
    ids = [2, 3, 2]
    assert units.text(ids) == written
    assert len(units.words(ids)) == number_words(np.array(ids), np.array([0, 3]), *units.flat)[2].size == 2


@pytest.mark.parametrize(
    ("tokens", "blank_id", "message"),
    [
        (["<pad>", "a"], 2, "blank_id is 2; it needs to be the id of one of the 2 tokens"),
        (["<pad>", None], 0, "token 1 is None; tokens need to be strings"),
        (["<pad>", "<unk>", ""], 0, "no token writes text"),
    ],
)
def test_read_units_of_unusable_vocabulary_raises(tokens, blank_id, message):
    with pytest.raises(ValueError, match=message):
        read_units(tokens, blank_id)
