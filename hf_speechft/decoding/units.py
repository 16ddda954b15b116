"""What each token of a CTC vocabulary writes: the one place that knows how vocabularies mark words.

A search sees a hypothesis as a stream of UTF-8 bytes in which every word is followed by one space, and each token as
its piece of that stream:

    characters with a delimiter   a -> "a"       | -> " "
    SentencePiece                 ▁the -> " the" ing -> "ing"
    WordPiece                     the -> " the"  ##ing -> "ing"
    byte-level BPE                Ġthe -> " the" ing -> "ing"
    no word marks (Chinese)       你好 -> " 你 好" ิ -> "ิ"

A space in a piece ends the word that is open; where none is open it does nothing. So language models, hot words and
phrases read one kind of stream, whatever the tokens are. Without word marks a character is a word, together with the
combining marks behind it (Thai vowels and tones).
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["SPACE", "Units", "is_combining", "read_units", "space_characters"]

SPACE = ord(" ")  # ends a word in the stream
DELIMITERS = ("|", "<space>", " ")
# What vocabularies hold besides text: <s>, <unk>, [CLS], [unused7]; also tokens that write nothing.
_SPECIAL = re.compile(r"<[^<>]+>|\[[^\[\]]+\]|")
_WHITE_SPACE = re.compile(r"\s")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's byte fallback


@dataclass(frozen=True)
class Units:
    """The pieces of the stream that tokens write.

    Attributes:
        pieces: Piece of each token, `(vocab,)`; empty for the blank and for special tokens, which are never searched.
        separator: What stands between two words in text: a space, or nothing where the vocabulary marks no words.
    """

    pieces: tuple[bytes, ...]
    separator: str = " "

    @cached_property
    def is_searched(self) -> np.ndarray:
        """`(vocab,)` boolean, True where a token may be part of a hypothesis."""
        return np.array([bool(piece) for piece in self.pieces])

    @cached_property
    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """All pieces in a row, uint8, and where each starts, `(vocab + 1,)` int32."""
        starts = np.cumsum([0, *map(len, self.pieces)], dtype=np.int32)
        return np.frombuffer(b"".join(self.pieces) or b"\0", np.uint8), starts

    def words(self, token_ids: Sequence[int]) -> list[str]:
        """Words that a token sequence writes; bytes that are no UTF-8 become U+FFFD."""
        stream = b"".join([self.pieces[token_id] for token_id in token_ids])
        return [word.decode("utf-8", errors="replace") for word in stream.split(b" ") if word]

    def text(self, token_ids: Sequence[int]) -> str:
        """Text that a token sequence writes."""
        return self.separator.join(self.words(token_ids))

    def stream(self, text: str) -> bytes:
        """Write a text as the stream of its words.

        >>> read_units(["<pad>", "|", "a", "b"], 0).stream(" ab  a ")
        b'ab a '
        """
        words = self.spaced(text)
        return f"{words} ".encode() if words else b""

    def spaced(self, text: str) -> str:
        """Write a text with a space between two words, as n-gram models count them.

        >>> read_units(["<pad>", "你", "好"], 0).spaced("你好")
        '你 好'
        """
        return " ".join((text if self.separator else space_characters(text)).split())

    def can_write(self, text: str) -> bool:
        """Tell whether some sequence of tokens writes this text."""
        stream = b" " + self.stream(text)
        if len(stream) == 1:
            return False
        pieces, longest = self._distinct
        reached = [True, True] + [False] * (len(stream) - 1)  # a leading space does nothing and may be absent
        for end in range(2, len(stream) + 1):
            starts = range(max(0, end - longest), end)
            reached[end] = any(reached[start] and stream[start:end] in pieces for start in starts)
        return reached[-1] or reached[-2]  # so may the last one

    def unknown_characters(self, text: str) -> list[str]:
        """Characters of a text that no token writes, sorted."""
        known = {character for piece in self._distinct[0] for character in piece.decode("utf-8", errors="ignore")}
        return sorted({character for character in text if not character.isspace()} - known)

    @cached_property
    def _distinct(self) -> tuple[frozenset[bytes], int]:
        pieces = frozenset(filter(None, self.pieces))
        return pieces, max(map(len, pieces), default=0)


def read_units(tokens: Sequence[str], blank_id: int) -> Units:
    """Find out how a vocabulary marks words, and what each of its tokens writes.

    Args:
        tokens: The vocabulary in the order of the logits.
        blank_id: Id of the CTC blank.

    Returns:
        The pieces.

    Raises:
        ValueError: The blank is outside the vocabulary, a token is no string, or no token writes anything.

    >>> read_units(["<pad>", "▁turn", "▁", "s"], 0).pieces
    (b'', b' turn', b' ', b's')
    """
    tokens = list(tokens)
    if not 0 <= blank_id < len(tokens):
        raise ValueError(f"blank_id is {blank_id}; it needs to be the id of one of the {len(tokens)} tokens")
    for token_id, token in enumerate(tokens):
        if not isinstance(token, str):
            raise ValueError(f"token {token_id} is {token!r}; tokens need to be strings, in the order of the logits")
    written = [None if token_id == blank_id else token for token_id, token in enumerate(tokens)]
    kept = [token for token in written if token and (token in DELIMITERS or not _SPECIAL.fullmatch(token))]
    separator = " "
    if any(token.startswith("▁") for token in kept):
        pieces = [_sentencepiece(token) for token in written]
    elif any(token.startswith("Ġ") and len(token) > 1 for token in kept):
        alphabet = _byte_level_alphabet()
        pieces = [_byte_level(token, alphabet) for token in written]
    elif any(token.startswith("##") and len(token) > 2 for token in kept):
        pieces = [_wordpiece(token) for token in written]
    elif delimiter := next((mark for mark in DELIMITERS if mark in kept), None):
        pieces = [b" " if token == delimiter else _plain(token) for token in written]
    else:
        pieces = [_characters(token) for token in written]
        separator = ""
    pieces = [_with_plain_spaces(piece) for piece in pieces]
    if not any(pieces):
        raise ValueError("no token writes text: all are blank, empty or special; give the tokens as they are written")
    return Units(tuple(pieces), separator)


def _plain(token: str | None) -> bytes:
    return b"" if token is None or _SPECIAL.fullmatch(token) else token.encode()


def _characters(token: str | None) -> bytes:
    """Each character as a word of its own."""
    return space_characters(_plain(token).decode()).encode()


def space_characters(text: str) -> str:
    """Put a space before each character that is no combining mark, and drop other white space.

    >>> space_characters("你 好")
    ' 你 好'
    """
    characters = "".join(text.split())
    return "".join(char if is_combining(char) else f" {char}" for char in characters)


def is_combining(char: str) -> bool:
    """Tell whether a character is written onto the one before it, as Thai vowels and tones are."""
    return unicodedata.category(char).startswith("M")


def _with_plain_spaces(piece: bytes) -> bytes:
    """Let every white space of Unicode, such as a line feed or U+3000, end a word as a space does."""
    text = piece.decode("utf-8", errors="surrogateescape")
    return _WHITE_SPACE.sub(" ", text).encode("utf-8", errors="surrogateescape")


def _sentencepiece(token: str | None) -> bytes:
    if token is not None and (byte := _BYTE.fullmatch(token)):
        return bytes([int(byte[1], 16)])
    return _plain(token).replace("▁".encode(), b" ")


def _wordpiece(token: str | None) -> bytes:
    piece = _plain(token)
    return piece[2:] if piece.startswith(b"##") and len(piece) > 2 else piece and b" " + piece


def _byte_level(token: str | None, alphabet: dict[str, int]) -> bytes:
    piece = _plain(token).decode()
    if all(character in alphabet for character in piece):
        return bytes([alphabet[character] for character in piece])
    return piece.encode()  # a token that was added to the vocabulary later is plain text


def _byte_level_alphabet() -> dict[str, int]:
    """Character that stands for each byte in byte-level BPE.

    Printable characters of Latin-1 stand for themselves, the other bytes for the code points from 256 on, in order.

    Source: Radford et al. 2019 (GPT-2), `bytes_to_unicode` of its encoder.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
