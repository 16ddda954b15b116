"""N-gram language models: a trie in flat arrays that compiled searches walk, and a file that is memory-mapped.

The probability of a word depends on the words before it, as many of them as the model has seen together:

    log P(w | context) = log_prob(context w)                             where the model holds that n-gram
                         log_backoff(context) + log P(w | context[1:])   otherwise

All figures are logarithms to base 10, as in ARPA files. A state is the trie's node of the longest context that the
model can go on from.

Source: Katz 1987, "Estimation of probabilities from sparse data", section III (back-off); Heafield 2011, "KenLM:
faster and smaller language model queries", section 4.1 (states without words that cannot matter).
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from .automaton import find_sorted
from .compiled import compiled, compiled_small

__all__ = ["NGramArrays", "NGramLM", "NodeRows", "join_orders", "next_state", "replaced_when_whole", "score_word"]

SPECIAL_WORDS = ("<unk>", "<s>", "</s>")  # ids 0, 1 and 2 of every model
BEGIN_NODE = 2  # the unigram of <s>
FORMAT = "hf_speechft n-gram model, version 1"
_DTYPES = {"F32": np.float32, "I32": np.int32, "U8": np.uint8}  # names in safetensors files


@contextmanager
def replaced_when_whole(path: str | Path) -> Iterator[Path]:
    """Give a file to write to, which takes the place of the one at `path` when it is complete."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class NGramArrays(NamedTuple):
    """A trie of n-grams; nodes stand level by level, children of a node in a row.

    Node 0 is the empty context, and the unigram of word w is node w + 1.

    Attributes:
        word: `(nodes,)` int32, last word of the node's n-gram; -1 for node 0.
        log10_prob: `(nodes,)` float32.
        log10_backoff: `(nodes,)` float32, 0 where there is none.
        first_child: `(nodes + 1,)` int32; the children of node i are `first_child[i]` to `first_child[i + 1] - 1`,
            sorted by word.
        suffix: `(nodes,)` int32, node of the longest proper suffix of the n-gram that the model holds.
    """

    word: np.ndarray
    log10_prob: np.ndarray
    log10_backoff: np.ndarray
    first_child: np.ndarray
    suffix: np.ndarray


class NodeRows(NamedTuple):
    """All n-grams of one order, sorted by parent and then by word.

    Attributes:
        parent: `(n-grams,)` node of the n-gram without its last word.
        word: `(n-grams,)` last word.
        suffix: `(n-grams,)` node of the longest proper suffix that the model holds.
        log10_prob: `(n-grams,)` float.
        log10_backoff: `(n-grams,)` float.
    """

    parent: np.ndarray
    word: np.ndarray
    suffix: np.ndarray
    log10_prob: np.ndarray
    log10_backoff: np.ndarray


def join_orders(orders: Sequence[NodeRows]) -> NGramArrays:
    """Join the n-grams of all orders, from the unigrams on, into a trie.

    Args:
        orders: The unigrams are those of all words, in the order of their ids.

    Returns:
        The trie, with the empty context as node 0.
    """
    root = NodeRows(*(np.array([value]) for value in (-1, -1, 0, 0.0, 0.0)))
    columns = NodeRows(*map(np.concatenate, zip(root, *orders, strict=True)))
    nodes = len(columns.word)
    children = np.bincount(columns.parent[1:], minlength=nodes)
    return NGramArrays(
        word=columns.word.astype(np.int32),
        log10_prob=columns.log10_prob.astype(np.float32),
        log10_backoff=columns.log10_backoff.astype(np.float32),
        first_child=np.concatenate([[1], 1 + np.cumsum(children)]).astype(np.int32),
        suffix=columns.suffix.astype(np.int32),
    )


@compiled_small
def _find_child(arrays: NGramArrays, node: int, word: int) -> int:
    """The node of an n-gram with one more word, or -1."""
    if node == 0:
        return word + 1
    return find_sorted(arrays.word, arrays.first_child[node], arrays.first_child[node + 1], word)


@compiled_small
def next_state(arrays: NGramArrays, node: int) -> int:
    """The state after an n-gram: its longest suffix that has longer n-grams or a back-off.

    Other suffixes give every word the score that theirs give. n-grams of the highest order have neither, so that a
    state is never one of them.

    Args:
        arrays: The model.
        node: Node of the n-gram.

    Returns:
        A node.
    """
    while node > 0 and arrays.first_child[node] == arrays.first_child[node + 1] and arrays.log10_backoff[node] == 0:
        node = arrays.suffix[node]
    return node


@compiled_small
def score_word(arrays: NGramArrays, state: int, word: int) -> tuple[float, int]:
    """Score a word after a context.

    Args:
        arrays: The model.
        state: What came before: 0 for nothing, `NGramLM.begin_state` for the start of a sentence, or the state that
            this function returned for the word before.
        word: Id of the word, 0 for an unknown one.

    Returns:
        log10 P(word | state), and the state after the word.
    """
    backoff = 0.0
    node = _find_child(arrays, state, word)
    while node < 0:
        backoff += arrays.log10_backoff[state]
        state = arrays.suffix[state]
        node = _find_child(arrays, state, word)
    return backoff + arrays.log10_prob[node], next_state(arrays, node)


@compiled
def _score_words(arrays: NGramArrays, state: int, words: np.ndarray) -> float:
    total = 0.0
    for word in words:
        log10_prob, state = score_word(arrays, state, word)
        total += log10_prob
    return total


class NGramLM:
    """An n-gram language model over words.

    Make one with `from_text`, `from_arpa` or `load`.

    Args:
        order: Words in the longest n-grams.
        words: The vocabulary: <unk>, <s>, </s>, then all other words.
        arrays: The n-grams.

    Attributes:
        begin_state: The state at the start of a sentence, after <s>.

    >>> lm = NGramLM.from_text(["turn on the light", "turn off the light"], order=2)
    >>> lm
    NGramLM(order=2, n-grams=[8, 7])
    >>> lm.score("turn on the light") > lm.score("light the on turn")
    True
    """

    END = 2  # id of </s>

    def __init__(self, order: int, words: list[str], arrays: NGramArrays) -> None:
        self.order = order
        self.words = words
        self.arrays = arrays
        self.begin_state = int(next_state(arrays, BEGIN_NODE))

    def __repr__(self) -> str:
        return f"NGramLM(order={self.order}, n-grams={self.counts})"

    @property
    def counts(self) -> list[int]:
        """How many n-grams of each order there are, unigrams first."""
        return np.diff(self.first_nodes).tolist()

    @property
    def first_nodes(self) -> list[int]:
        """Where the nodes of each order begin, unigrams first, and the number of nodes."""
        firsts = [1]
        for _ in range(self.order):  # the first child of an order's first node is the next order's first node
            firsts.append(int(self.arrays.first_child[firsts[-1]]))
        return firsts

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def word_id(self, word: str) -> int:
        """The id of a word, 0 if the model does not know it."""
        return self._ids.get(word, 0)

    def score(self, sentence: str, bos: bool = True, eos: bool = True) -> float:
        """Score a sentence.

        Args:
            sentence: Words with spaces between them.
            bos: Whether it stands at the start of a sentence, after <s>.
            eos: Whether the sentence ends with it, so that </s> is scored too.

        Returns:
            log10 of its probability.

        Source: `Model.score` of the Python module kenlm.
        """
        ids = [self.word_id(word) for word in sentence.split()] + [self.END] * eos
        state = self.begin_state if bos else 0
        return float(_score_words(self.arrays, state, np.array(ids, dtype=np.int32)))

    @classmethod
    def from_text(cls, lines: Iterable[str], order: int) -> "NGramLM":
        """Estimate a model from sentences, with modified Kneser-Ney smoothing; see `estimate_kneser_ney`."""
        from .kneser_ney import estimate_kneser_ney

        return estimate_kneser_ney(lines, order)

    @classmethod
    def from_arpa(cls, path: str | Path) -> "NGramLM":
        """Read a model from an ARPA file, plain or compressed with gzip; see `read_arpa`."""
        from .arpa import read_arpa

        return read_arpa(path)

    def write_arpa(self, path: str | Path) -> None:
        """Write the model as an ARPA file, compressed where the name ends in .gz; see `write_arpa`."""
        from .arpa import write_arpa

        write_arpa(self, path)

    def save(self, path: str | Path) -> None:
        """Write the model in the binary form that `load` reads at once: a safetensors file of its arrays.

        Args:
            path: A file; one that exists is replaced when the new one is complete, because models that were loaded
                from it go on reading it.
        """
        tensors = dict(self.arrays._asdict(), words=np.frombuffer("\n".join(self.words).encode(), dtype=np.uint8))
        try:
            with replaced_when_whole(path) as partial:
                save_file(tensors, partial, metadata={"format": FORMAT, "order": str(self.order)})
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> "NGramLM":
        """Read a model that `save` wrote. The arrays stay in the file and are read where they are needed.

        Args:
            path: The file.

        Returns:
            The model.

        Raises:
            ValueError: The file is of another kind or damaged.
            OSError: There is no such file.
        """
        order, tensors = _map_tensors(Path(path))
        words = tensors.pop("words").tobytes().decode().split("\n")
        return cls(order, words, NGramArrays(**tensors))


def _map_tensors(path: Path) -> tuple[int, dict[str, np.ndarray]]:
    """Map the tensors of a file that `NGramLM.save` wrote into memory, and read the model's order.

    A safetensors file is the length of a header (8 bytes, little-endian), the header in JSON, and the tensors' bytes,
    which it aligns. Its own reader copies them.

    Source: https://huggingface.co/docs/safetensors, section "Format".
    """
    problem = f"{path} is not in the form {FORMAT!r}, or is damaged"
    remedy = "read ARPA files with NGramLM.from_arpa, or make the model again with `hf-speechft lm build`"
    if path.stat().st_size < 8:
        raise ValueError(f"{problem}: it has {path.stat().st_size} bytes; {remedy}")
    # Copy-on-write maps are writable arrays, so that numba compiles its functions once for all models.
    content = np.asarray(np.memmap(path, dtype=np.uint8, mode="c"))
    start = 8 + int(content[:8].view("<u8")[0])
    tensors = {}
    try:
        header = json.loads(content[8:start].tobytes())
        if header["__metadata__"]["format"] != FORMAT:
            raise ValueError("another format")
        order = int(header["__metadata__"]["order"])
        for name in (*NGramArrays._fields, "words"):
            begin, end = header[name]["data_offsets"]
            tensors[name] = content[start:][begin:end].view(_DTYPES[header[name]["dtype"]])
            if tensors[name].shape != tuple(header[name]["shape"]):
                raise ValueError(f"{name} ends early")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{problem}; {remedy}") from error
    return order, tensors
