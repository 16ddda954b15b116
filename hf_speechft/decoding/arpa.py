r"""ARPA files: how n-gram models are exchanged as text.

    \data\
    ngram 1=4
    ngram 2=2

    \1-grams:
    -1.2    <unk>    0
    ...
    \2-grams:
    -0.4    turn on
    ...
    \end\

A line is log10 of a probability, the words, and log10 of a back-off weight where the n-gram is the context of longer
ones; spaces or tabs stand between them.

Source: SRILM, manual page ngram-format(5); where programs differ, what KenLM reads (Heafield 2011, lm/read_arpa.cc).
"""

import codecs
import gzip
import io
import itertools
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from .ngram import SPECIAL_WORDS, NGramLM, NodeRows, join_orders, replaced_when_whole

__all__ = ["read_arpa", "write_arpa"]

GZIP_MAGIC = b"\x1f\x8b"
LOG10_ZERO = -99.0  # SRILM's way of writing the logarithm of 0
LOG10_UNKNOWN = -100.0  # of <unk> where a file has none, as KenLM's unknown_missing_logprob
CHUNK_BYTES = 1 << 22  # text that is split at once
_COUNT_LINE = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)$")


class _Rows(NamedTuple):
    """Lines of a section.

    Attributes:
        line_numbers: `(n-grams,)`.
        log10_prob: `(n-grams,)` float64.
        words: `(n-grams, order)` ids, int64.
        log10_backoff: `(n-grams,)` float64.
    """

    line_numbers: np.ndarray
    log10_prob: np.ndarray
    words: np.ndarray
    log10_backoff: np.ndarray


def read_arpa(path: str | Path) -> NGramLM:
    r"""Read an n-gram model from an ARPA file.

    <UNK> is read as <unk>, an unknown word gets log10 -100 where the file has neither, and -inf is read as -99.

    Args:
        path: A file, plain or compressed with gzip. Text before \data\ and after \end\ is skipped.

    Returns:
        The model.

    Raises:
        ValueError: The file breaks the format; the message names the file, the line, what is there and what is needed.
        OSError: The file cannot be read.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "rb"))
        if file.peek(2)[:2] == GZIP_MAGIC:
            file = stack.enter_context(io.BufferedReader(stack.enter_context(gzip.GzipFile(fileobj=file))))
        try:
            return _read_model(_ArpaLines(path, file))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error}); compress or copy it again") from error


def write_arpa(lm: NGramLM, path: str | Path) -> None:
    """Write an n-gram model as an ARPA file.

    Args:
        lm: The model. Its numbers get nine digits, from which reading restores the same float32.
        path: The file; it is compressed with gzip if the name ends in .gz. One that exists is replaced when the new
            one is complete.

    Raises:
        OSError: The file cannot be written.
    """
    with replaced_when_whole(path) as partial:
        _write_lines(lm, partial, is_compressed=str(path).endswith(".gz"))


def _write_lines(lm: NGramLM, path: Path, is_compressed: bool) -> None:
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "wb"))
        if is_compressed:
            file = stack.enter_context(gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0))
        file.write(b"\\data\\\n")
        for order, count in enumerate(lm.counts, start=1):
            file.write(b"ngram %d=%d\n" % (order, count))
        for order, lines in enumerate(_ngram_lines(lm), start=1):
            file.write(b"\n\\%d-grams:\n" % order)
            file.writelines(lines)
        file.write(b"\n\\end\\\n")


def _ngram_lines(lm: NGramLM) -> Iterator[list[bytes]]:
    """Yield the lines of each order."""
    arrays, firsts, words = lm.arrays, lm.first_nodes, [word.encode() for word in lm.words]
    contexts = [b""]  # texts of the n-grams of the order before, with a space behind
    for order, (first, end) in enumerate(itertools.pairwise(firsts), start=1):
        parents = slice(0, 1) if order == 1 else slice(firsts[order - 2], first)
        children = np.diff(arrays.first_child)[parents].tolist()
        context_of = itertools.chain.from_iterable(map(itertools.repeat, contexts, children))
        texts = [context + words[word] for context, word in zip(context_of, arrays.word[first:end], strict=True)]
        log10_probs = arrays.log10_prob[first:end].tolist()
        if order == lm.order:
            yield [b"%.9g\t%b\n" % row for row in zip(log10_probs, texts, strict=True)]
        else:
            log10_backoffs = (arrays.log10_backoff[first:end] + 0.0).tolist()  # which makes -0 a 0
            yield [b"%.9g\t%b\t%.9g\n" % row for row in zip(log10_probs, texts, log10_backoffs, strict=True)]
        contexts = [text + b" " for text in texts]


class _ArpaLines:
    """The lines of a file, read in large pieces, with the number of the last one read.

    Args:
        path: For messages.
        file: Opened for reading.
    """

    def __init__(self, path: str | Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.lines, self.place, self.lines_before = [], 0, 0

    @property
    def number(self) -> int:
        """Number of the line that was read last, from 1."""
        return self.lines_before + self.place

    def error(self, problem: str, number: int | None = None) -> ValueError:
        """An error in a line, by default the one read last."""
        return ValueError(f"{self.path}, line {self.number if number is None else number}: {problem}")

    def next_line(self) -> bytes:
        """The next line that is not blank, without the spaces around it; empty at the file's end."""
        while self._has_more():
            line = self.lines[self.place].strip()
            self.place += 1
            if line:
                return line
        return b""

    def step_back(self) -> None:
        """Make the line that `next_line` gave the next one again."""
        self.place -= 1

    def section_pieces(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the lines up to the next that begins with a backslash, in pieces with their first lines' numbers."""
        while self._has_more():
            first, number = self.place, self.number + 1
            ends = (place for place in range(first, len(self.lines)) if self.lines[place].startswith(b"\\"))
            self.place = next(ends, len(self.lines))
            yield number, self.lines[first : self.place]
            if self.place < len(self.lines):
                return

    def _has_more(self) -> bool:
        if self.place == len(self.lines):
            self.lines_before += len(self.lines)
            self.lines, self.place = self.file.readlines(CHUNK_BYTES), 0
        return self.place < len(self.lines)


def _read_model(lines: _ArpaLines) -> NGramLM:
    counts = _read_counts(lines)
    words, ids, unigrams = _read_unigrams(lines, counts)
    orders, trie = [unigrams], _Trie(len(words))
    for order in range(2, len(counts) + 1):
        orders.append(_link(lines, trie, _read_section(lines, order, counts, ids), words))
    _expect(lines, "\\end\\")
    return NGramLM(len(counts), words, join_orders(orders))


def _read_counts(lines: _ArpaLines) -> list[int]:
    """Read how many n-grams of each order the file announces."""
    while (line := lines.next_line()).removeprefix(codecs.BOM_UTF8) != b"\\data\\":
        if not line:
            raise lines.error("the file ends without a line \\data\\; it is no ARPA file")
    counts = []
    while not (line := lines.next_line()).startswith(b"\\"):
        found = _COUNT_LINE.match(line)
        if found is None or int(found[1]) != len(counts) + 1:
            raise lines.error(f"{_quote(line)} where 'ngram {len(counts) + 1}=' and a number or \\1-grams: is needed")
        counts.append(int(found[2]))
    if not counts:
        raise lines.error(f"{_quote(line)} where 'ngram 1=' and a number is needed")
    lines.step_back()
    return counts


def _read_unigrams(lines: _ArpaLines, counts: list[int]) -> tuple[list[str], dict[bytes, int], NodeRows]:
    """Read the vocabulary: its words, their ids, and the unigrams in the order of the ids."""
    growing = defaultdict(itertools.count(len(SPECIAL_WORDS)).__next__)
    growing.update({word.encode(): index for index, word in enumerate(SPECIAL_WORDS)})
    growing[b"<UNK>"] = 0
    rows = _read_section(lines, 1, counts, growing)
    ids = dict(growing)
    spelled = [word for word in ids if word != b"<UNK>"]
    try:
        words = [word.decode() for word in spelled]
    except UnicodeDecodeError as error:
        row = int(np.flatnonzero(rows.words[:, 0] == ids[error.object])[0])
        raise lines.error(f"{error.object!r} is not UTF-8; convert the file", rows.line_numbers[row]) from error
    of_word = np.full(len(words), -1)
    of_word[rows.words[:, 0]] = np.arange(len(rows.words))
    for index, word in enumerate(SPECIAL_WORDS[1:], start=1):
        if of_word[index] < 0:
            raise lines.error(f"\\1-grams: ends without {word}; a model of sentences needs it")
    _sorted_rows(lines, rows, rows.words[:, 0], words)
    log10_prob = np.where(of_word < 0, LOG10_UNKNOWN, rows.log10_prob[of_word])
    log10_backoff = np.where(of_word < 0, 0.0, rows.log10_backoff[of_word])
    zeros = np.zeros(len(words), dtype=np.int64)
    return words, ids, NodeRows(zeros, np.arange(len(words)), zeros, log10_prob, log10_backoff)


def _read_section(lines: _ArpaLines, order: int, counts: list[int], ids: dict[bytes, int]) -> _Rows:
    """Read all n-grams of an order."""
    _expect(lines, f"\\{order}-grams:")
    pieces = [_parse(lines, lines.number, [], order, ids)]
    pieces += [_parse(lines, number, piece, order, ids) for number, piece in lines.section_pieces()]
    rows = _Rows(*map(np.concatenate, zip(*pieces, strict=True)))
    if len(rows.words) != counts[order - 1]:
        raise lines.error(
            f"\\{order}-grams: ends after {len(rows.words)} n-grams where \\data\\ announces {counts[order - 1]}; the "
            "file is cut off, or its head is wrong"
        )
    if order == len(counts) and rows.log10_backoff.any():
        row = int(np.flatnonzero(rows.log10_backoff)[0])
        raise lines.error(
            f"a back-off of {rows.log10_backoff[row]:g} in the highest order, where none is needed",
            rows.line_numbers[row],
        )
    return rows


def _parse(lines: _ArpaLines, number: int, piece: list[bytes], order: int, ids: dict[bytes, int]) -> _Rows:
    """Split lines of which the first has a certain number into their fields."""
    rows = [line.split() for line in piece]
    fields = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    numbers = number + np.flatnonzero(fields)
    rows, fields = [row for row in rows if row], fields[fields > 0]
    for row in np.flatnonzero((fields != order + 1) & (fields != order + 2))[:1]:
        needed = f"a log-probability, {order} {'word' if order == 1 else 'words'} and perhaps a back-off are needed"
        raise lines.error(f"{_quote(b' '.join(rows[row]))} has {fields[row]} fields where {needed}", numbers[row])
    log10_prob = _floats([row[0] for row in rows])
    for row in np.flatnonzero(~(log10_prob <= 0))[:1]:
        raise lines.error(f"{_quote(rows[row][0])} where a log-probability of 0 or less is needed", numbers[row])
    log10_backoff = _floats([row[-1] if len(row) == order + 2 else b"0" for row in rows])
    for row in np.flatnonzero(~np.isfinite(log10_backoff))[:1]:
        raise lines.error(f"{_quote(rows[row][-1])} where a finite number is needed as back-off", numbers[row])
    try:
        words = [ids[word] for row in rows for word in row[1 : order + 1]]
    except KeyError as error:
        word = error.args[0]
        row = next(row for row, fields in enumerate(rows) if word in fields[1 : order + 1])
        raise lines.error(f"{_quote(word)} is not among the words of \\1-grams:", numbers[row]) from error
    log10_prob[np.isneginf(log10_prob)] = LOG10_ZERO
    return _Rows(numbers, log10_prob, np.array(words, dtype=np.int64).reshape(-1, order), log10_backoff)


def _floats(fields: list[bytes]) -> np.ndarray:
    """Numbers, with NaN for what is none."""
    try:
        return np.array(list(map(float, fields)), dtype=np.float64)
    except ValueError:
        return np.array([_float_or_nan(field) for field in fields])


def _float_or_nan(field: bytes) -> float:
    try:
        return float(field)
    except ValueError:
        return np.nan


class _Trie:
    """The n-grams read so far; each is the integer `parent * vocab + word`, and nodes are in the order of these.

    Args:
        vocab: Words, which are the unigrams.
    """

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab
        self.keys = np.arange(vocab)  # (nodes - 1,)
        self.suffix = np.zeros(vocab + 1, dtype=np.int64)  # (nodes,)

    def key(self, parent: np.ndarray, word: np.ndarray) -> np.ndarray:
        """The integers of n-grams given by their contexts' nodes and last words."""
        return parent * self.vocab + word

    def find(self, parent: np.ndarray, word: np.ndarray) -> np.ndarray:
        """The nodes of n-grams, -1 where there is none or the parent is -1."""
        keys = self.key(parent, word)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places + 1, -1)


def _link(lines: _ArpaLines, trie: _Trie, rows: _Rows, words: list[str]) -> NodeRows:
    """Find the contexts and suffixes of the n-grams of the next order, and add them to the trie."""
    parent = np.zeros(len(rows.words), dtype=np.int64)
    for column in rows.words.T[:-1]:
        parent = trie.find(parent, column)
    for row in np.flatnonzero(parent < 0)[:1]:
        context = " ".join(words[word] for word in rows.words[row, :-1])
        raise lines.error(
            f"the context {context!r} of this n-gram is missing in \\{rows.words.shape[1] - 1}-grams:",
            rows.line_numbers[row],
        )
    sorted_rows = _sorted_rows(lines, rows, trie.key(parent, rows.words[:, -1]), words)
    parent, word = parent[sorted_rows], rows.words[sorted_rows, -1]
    context = trie.suffix[parent]
    suffix = trie.find(context, word)
    while (missing := suffix < 0).any():  # pruned from the file; every word has a unigram
        context[missing] = trie.suffix[context[missing]]
        suffix[missing] = trie.find(context[missing], word[missing])
    trie.keys = np.concatenate([trie.keys, trie.key(parent, word)])
    trie.suffix = np.concatenate([trie.suffix, suffix])
    return NodeRows(parent, word, suffix, rows.log10_prob[sorted_rows], rows.log10_backoff[sorted_rows])


def _sorted_rows(lines: _ArpaLines, rows: _Rows, keys: np.ndarray, words: list[str]) -> np.ndarray:
    """The order of rows that sorts their keys, all of which have to differ."""
    order = np.argsort(keys, kind="stable")
    for place in np.flatnonzero(np.diff(keys[order]) == 0)[:1]:
        first, row = order[place : place + 2]
        text = " ".join(words[word] for word in rows.words[row])
        problem = f"{text!r} is there a second time, after line {rows.line_numbers[first]}"
        raise lines.error(problem, rows.line_numbers[row])
    return order


def _expect(lines: _ArpaLines, needed: str) -> None:
    if (line := lines.next_line()) != needed.encode():
        raise lines.error(f"{_quote(line)} where {needed} is needed")


def _quote(found: bytes) -> str:
    shown = repr(found[:80].decode(errors="replace")).replace("\\\\", "\\")
    return shown if found else "the file ends"
