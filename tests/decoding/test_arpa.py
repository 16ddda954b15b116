r"""ARPA files: what is read, what is written, and an error with the line number for everything else."""

import gzip
import math

import numpy as np
import pytest

from hf_speechft.decoding import arpa
from hf_speechft.decoding.arpa import read_arpa, write_arpa
from hf_speechft.decoding.kneser_ney import estimate_kneser_ney

LINES = [
    "\\data\\",  # line 1
    "ngram 1=5",
    "ngram 2=3",
    "",
    "\\1-grams:",  # 5
    "-1.5\t<unk>",
    "-99\t<s>\t-0.25",
    "-0.75\t</s>",
    "-0.5\tturn\t-0.125",
    "-1\ton",  # 10
    "",
    "\\2-grams:",  # 12
    "-0.3\t<s> turn",
    "-0.2\tturn on",
    "-0.1\ton </s>",  # 15
    "",
    "\\end\\",  # 17
]


@pytest.fixture
def write(tmp_path):
    """Write lines into a file; `changes` replaces those with the given numbers, `None` leaves one out."""

    def write_lines(changes=None, name="lm.arpa"):
        lines = [(changes or {}).get(number, line) for number, line in enumerate(LINES, start=1)]
        path = tmp_path / name
        path.write_text("\n".join(line for line in lines if line is not None) + "\n", encoding="utf-8")
        return path

    return write_lines


def assert_same(lm, other):
    assert (lm.order, lm.words) == (other.order, other.words)
    for name, array in lm.arrays._asdict().items():
        np.testing.assert_array_equal(array, getattr(other.arrays, name), strict=True)


def test_read_arpa_gives_arrays_in_the_order_of_the_trie(write):
    lm = read_arpa(write())
    assert (lm.order, lm.words) == (2, ["<unk>", "<s>", "</s>", "turn", "on"])
    arrays = lm.arrays
    assert arrays.word.tolist() == [-1, 0, 1, 2, 3, 4, 3, 4, 2]
    assert arrays.log10_prob.tolist() == pytest.approx([0, -1.5, -99, -0.75, -0.5, -1, -0.3, -0.2, -0.1])
    assert arrays.log10_backoff.tolist() == [0, 0, -0.25, 0, -0.125, 0, 0, 0, 0]
    assert arrays.first_child.tolist() == [1, 6, 6, 7, 7, 8, 9, 9, 9, 9]
    assert arrays.suffix.tolist() == [0, 0, 0, 0, 0, 0, 4, 5, 3]
    assert [str(array.dtype) for array in arrays] == ["int32", "float32", "float32", "int32", "int32"]


def test_read_arpa_pruned_suffix_is_the_longest_that_is_there(write):
    """The suffix of "turn on on turn" is "on turn", because the file lacks "on on turn"."""
    pairs = ["-1\tturn on", "-1\ton on", "-1\ton turn\t-0.5"]
    longer = ["\\3-grams:", "-1\tturn on on", "\\4-grams:", "-1\tturn on on turn", "\\end\\"]
    changes = {3: "ngram 2=3\nngram 3=1\nngram 4=1", 17: "\n".join(longer)}
    lm = read_arpa(write(changes | dict(zip((13, 14, 15), pairs, strict=True))))
    turn, on = lm.word_id("turn"), lm.word_id("on")
    bigrams = {(parent, word): node for node, parent, word in [(6, turn, on), (7, on, turn), (8, on, on)]}
    assert lm.arrays.word[6:9].tolist() == [on, turn, on]
    assert lm.arrays.suffix.tolist()[9:] == [bigrams[on, on], bigrams[on, turn]]


@pytest.mark.parametrize(
    "changes",
    [
        {9: "-0.5 turn -0.125", 14: "-0.2 turn on"},
        {9: "-0.5  turn\t -0.125  ", 13: "  -0.3\t<s>\tturn"},
        {8: "-0.75\t</s>\t0", 10: "-1.0e0\ton\t-0.0", 14: "-2e-1\tturn on\t0"},
        {4: None, 11: None, 16: None},
        {4: "\n\n", 9: "-0.5\tturn\t-0.125\n\n", 13: "\n-0.3\t<s> turn"},
        {1: "made by hand\nngram 1=7\n\\data\\", 17: "\\end\\\nanything"},
        {6: "-1.5\t<UNK>"},
        {6: "-1\ton", 10: "-1.5\t<unk>", 13: "-0.1\ton </s>", 15: "-0.3\t<s> turn"},
        {2: "ngram  1 = 5", 5: "\\1-grams:  "},
        {7: "-inf\t<s>\t-0.25"},
        dict(enumerate([f"{line}\r" for line in LINES], start=1)),
    ],
)
def test_read_arpa_accepts_what_other_programs_write(write, changes):
    lm, expected = read_arpa(write(changes, "other.arpa")), read_arpa(write())
    assert sorted(lm.words) == sorted(expected.words)
    for sentence in ("turn on", "on x turn", ""):
        assert lm.score(sentence) == expected.score(sentence)
    assert sorted(lm.arrays.log10_prob) == sorted(expected.arrays.log10_prob)


def test_read_arpa_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "lm.arpa").write_text("\n".join(LINES[LINES.index("\\data\\") :]), encoding="utf-8-sig")
    assert read_arpa(tmp_path / "lm.arpa").score("turn on") < 0


@pytest.mark.parametrize("name", ["lm.arpa.gz", "lm.arpa"])
def test_read_arpa_gzip_is_known_by_its_content(write, tmp_path, name):
    expected = read_arpa(write())
    path = tmp_path / name
    path.write_bytes(gzip.compress("\n".join(LINES).encode()))
    assert_same(read_arpa(str(path)), expected)


@pytest.mark.parametrize("chunk_bytes", [1, 40])
def test_read_arpa_in_small_pieces_is_the_same(write, monkeypatch, chunk_bytes):
    expected = read_arpa(write())
    monkeypatch.setattr(arpa, "CHUNK_BYTES", chunk_bytes)
    assert_same(read_arpa(write()), expected)
    with pytest.raises(ValueError, match="line 14: 'of' is not among"):
        read_arpa(write({14: "-0.2\tturn of"}))


def test_read_arpa_without_unknown_word_gives_it_the_score_of_kenlm(write):
    lm = read_arpa(write({2: "ngram 1=4", 6: None}))
    assert lm.words == ["<unk>", "<s>", "</s>", "turn", "on"]
    assert lm.score("x", bos=False, eos=False) == -100  # unknown_missing_logprob of KenLM


def test_read_arpa_minus_infinity_is_srilms_zero(write):
    assert read_arpa(write({10: "-inf\ton"})).arrays.log10_prob[5] == -99


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: "data"}, r"line 17: the file ends without a line \\data\\; it is no ARPA file"),
        ({2: "ngram one=5"}, r"line 2: 'ngram one=5' where 'ngram 1=' and a number or \\1-grams: is needed"),
        ({3: "ngram 3=3"}, "line 3: 'ngram 3=3' where 'ngram 2='"),
        ({2: None, 3: None}, r"line 3: '\\1-grams:' where 'ngram 1=' and a number is needed"),
        ({2: "ngram 1=6"}, r"line 11: \\1-grams: ends after 5 n-grams where \\data\\ announces 6"),
        ({3: "ngram 2=2"}, r"line 16: \\2-grams: ends after 3 n-grams where \\data\\ announces 2"),
        ({17: None}, r"line 16: the file ends where \\end\\ is needed"),
        ({12: "\\3-grams:"}, r"line 12: '\\3-grams:' where \\2-grams: is needed"),
        ({17: "\\3-grams:"}, r"line 17: '\\3-grams:' where \\end\\ is needed"),
        ({3: None, 7: "-1\t<s>", 9: "-1\tturn"}, r"line 11: '\\2-grams:' where \\end\\ is needed"),
        ({9: "turn\t-0.5"}, "line 9: 'turn' where a log-probability of 0 or less is needed"),
        ({9: "0,5\tturn"}, "line 9: '0,5' where a log-probability"),
        ({9: "nan\tturn"}, "line 9: 'nan' where a log-probability"),
        ({9: "0.5\tturn"}, "line 9: '0.5' where a log-probability of 0 or less"),
        ({9: "inf\tturn"}, "line 9: 'inf' where a log-probability"),
        ({9: "-0.5\tturn\tx"}, "line 9: 'x' where a finite number is needed as back-off"),
        ({9: "-0.5\tturn\t-inf"}, "line 9: '-inf' where a finite number"),
        ({9: "-0.5"}, "line 9: '-0.5' has 1 fields where a log-probability, 1 word and perhaps a back-off are needed"),
        ({14: "-0.2\tturn on it 0"}, "line 14: '-0.2 turn on it 0' has 5 fields where a log-probability, 2 words"),
        ({14: "-0.2\tturn on\t-0.5"}, "line 14: a back-off of -0.5 in the highest order, where none is needed"),
        ({14: "-0.2\tturn off"}, r"line 14: 'off' is not among the words of \\1-grams:"),
        ({14: "-0.2\t<s> turn"}, "line 14: '<s> turn' is there a second time, after line 13"),
        ({10: "-1\tturn"}, "line 10: 'turn' is there a second time, after line 9"),
        ({10: "-1\t<UNK>"}, "line 10: '<unk>' is there a second time, after line 6"),
        ({7: "-1\tBEGIN"}, r"line 11: \\1-grams: ends without <s>; a model of sentences needs it"),
        ({8: "-1\tEND"}, r"line 11: \\1-grams: ends without </s>"),
    ],
)
def test_read_arpa_malformed_raises_with_line_number(write, changes, message):
    path = write(changes)
    with pytest.raises(ValueError, match=message) as error_info:
        read_arpa(path)
    assert str(error_info.value).startswith(f"{path}, line ")
    assert "\n" not in str(error_info.value)


def test_read_arpa_missing_context_raises_with_line_number(write):
    trigrams = ["\\3-grams:", "-0.1\t<s> turn on", "-0.1\t<s> on </s>", "", "\\end\\"]
    path = write({3: "ngram 2=3\nngram 3=2", 17: "\n".join(trigrams)})
    with pytest.raises(ValueError, match=r"line 20: the context '<s> on' of this n-gram is missing in \\2-grams:"):
        read_arpa(path)


def test_read_arpa_other_encoding_raises_with_line_number(tmp_path):
    path = tmp_path / "latin.arpa"
    path.write_bytes("\n".join(LINES).replace("turn", "für").encode("latin-1"))
    with pytest.raises(ValueError, match="line 9: .*is not UTF-8; convert the file"):
        read_arpa(path)


def test_read_arpa_damaged_gzip_raises(tmp_path):
    path = tmp_path / "lm.arpa.gz"
    path.write_bytes(gzip.compress("\n".join(LINES).encode())[:-20])
    with pytest.raises(ValueError, match=r"lm\.arpa\.gz is a damaged gzip file"):
        read_arpa(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00\x01" * 5_000])
def test_read_arpa_other_content_raises(tmp_path, content):
    path = tmp_path / "lm.arpa"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"lm\.arpa, line \d: the file ends without a line"):
        read_arpa(path)


def test_read_arpa_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arpa(tmp_path / "missing.arpa")


def test_write_arpa_is_what_kenlm_reads(write, tmp_path):
    """Header lines, tabs and blank lines as in files of lmplz; a back-off in all orders but the highest."""
    write_arpa(read_arpa(write()), tmp_path / "out.arpa")
    expected = [
        "\\data\\",
        "ngram 1=5",
        "ngram 2=3",
        "",
        "\\1-grams:",
        "-1.5\t<unk>\t0",
        "-99\t<s>\t-0.25",
        "-0.75\t</s>\t0",
        "-0.5\tturn\t-0.125",
        "-1\ton\t0",
        "",
        "\\2-grams:",
        "-0.300000012\t<s> turn",
        "-0.200000003\tturn on",
        "-0.100000001\ton </s>",
        "",
        "\\end\\",
        "",
    ]
    assert (tmp_path / "out.arpa").read_bytes().decode().split("\n") == expected


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_write_arpa_then_read_restores_every_bit(tmp_path, name, order):
    generator = np.random.default_rng(order)
    lines = [
        " ".join(generator.choice(["ä", "b", "ccc", "d", "😀"], size=size)) for size in generator.integers(1, 9, 80)
    ]
    lm = estimate_kneser_ney(lines, order)
    assert math.prod(lm.counts) > 0
    write_arpa(lm, tmp_path / name)
    assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    assert_same(read_arpa(tmp_path / name), lm)


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_write_arpa_that_is_cut_short_leaves_the_file_that_was_there(write, tmp_path, monkeypatch, name):
    lm = read_arpa(write())
    write_arpa(lm, tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def lines(lm):
        yield [b"-1\tword\n"]
        raise OSError("no space left on device")

    monkeypatch.setattr(arpa, "_ngram_lines", lines)
    with pytest.raises(OSError, match="no space left"):
        write_arpa(lm, tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_write_arpa_into_a_missing_folder_raises(write, tmp_path):
    with pytest.raises(OSError, match="missing"):
        write_arpa(read_arpa(write()), tmp_path / "missing" / "lm.arpa")
