"""Named text normalisers: what a transcript looks like before it becomes labels or is scored; and files of text.

The name of the one used is saved with the tokenizer, so that references and predictions are always written alike.
None of them spells out numbers ("21" stays "21"): a corpus whose speakers read digits needs them written as words
before training, because their pronunciation is a question of language and context.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

# What keyboards, typesetters and Unicode use for the apostrophe: ' ’ ‘ ʼ ´ ` and the full-width form.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\u00b4\u0060\uff07", "'"))
# As names of characters begin: scripts whose words are not set apart by spaces.
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "YI ")
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")
_SPOKEN_SYMBOLS = {"&": " and ", "%": " percent ", "@": " at "}
_VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # selectors, invisible as well
_WORD_BREAKS = re.compile(r"[\s/_\\|~+=\-\u2010-\u2015\u2212]|\.{2,}")


def keep_text(text: str) -> str:
    """Return the text unchanged, for corpora that are already written as they should be recognised.

    Source: nothing is done; named "none" as in the command line.
    """
    return text


def normalize_cased(text: str) -> str:
    r"""Compose (NFC) and tidy up spaces; case and punctuation stay, as units to be recognised.

    Without it, é as one character and as e with a mark would be different units. Invisible characters vanish.

    Source: Unicode Standard Annex 15 (NFC).

    >>> normalize_cased("Cafe\u0301 au  lait,\u00a0s'il vous plaît!")
    "Café au lait, s'il vous plaît!"
    """
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).split())


def normalize_basic(text: str) -> str:
    """Lower-case, compose (NFKC) and strip punctuation, for any script.

    Letters, digits and combining marks stay: umlauts, Arabic vowel signs, Devanagari vowels, Ethiopic. Punctuation
    and symbols become spaces, except an apostrophe between two letters, of whatever form, which becomes ' (don't,
    l'eau, ng'ombe). Invisible characters such as direction marks and soft hyphens vanish; runs of spaces become one.

    Source: Unicode Standard Annex 15 (NFKC) and the general categories of Annex 44; compare the normaliser that
    Whisper applies to languages other than English (Radford et al. 2022, appendix C), which drops marks as well.

    >>> normalize_basic("«Ĳsberg, DON’T melt!»")
    "ijsberg don't melt"
    >>> normalize_basic("Größere Cobb-Werte…")
    'größere cobb werte'
    """
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).replace("İ", "i").lower()
    text = unicodedata.normalize("NFKC", text)  # lower-casing can leave letters decomposed
    text = "".join(_kept_or_space(character) for character in text)
    return _collapse(text)


def normalize_english(text: str) -> str:
    """Write English as the transcripts of LibriSpeech and AN4 are written: letters, apostrophes, single spaces.

    Apostrophes become ', dashes, hyphens and slashes become spaces, &, % and @ become words, accents are taken off
    (café -> cafe), and all other punctuation vanishes without a space, so that "U.S." is one word. The result is
    lower-case; digits stay.

    Source: the transcripts of LibriSpeech (Panayotov et al. 2015, section 3: upper-case words and apostrophes only).

    >>> normalize_english("The well-known U.S. café — it’s 5% off!")
    "the well known us cafe it's 5 percent off"
    """
    text = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES)).lower()
    for symbol, words in _SPOKEN_SYMBOLS.items():
        text = text.replace(symbol, words)
    text = _WORD_BREAKS.sub(" ", text)
    kept = (character for character in text if character in "' " or unicodedata.category(character)[0] in "LN")
    return _collapse(unicodedata.normalize("NFKC", "".join(kept)))


NORMALIZERS: dict[str, Callable[[str], str]] = {
    "none": keep_text,
    "basic": normalize_basic,
    "english": normalize_english,
    "cased": normalize_cased,
}


def normalize_text(text: str, normalizer: str) -> str:
    """Apply a normaliser by name.

    Args:
        text: A transcript.
        normalizer: A key of `NORMALIZERS`.

    Raises:
        ValueError: There is no normaliser of that name.
    """
    if normalizer not in NORMALIZERS:
        known = ", ".join(NORMALIZERS)
        raise ValueError(f"text normaliser {normalizer!r} is unknown; choose one of: {known}")
    return NORMALIZERS[normalizer](text)


def lacks_spaces(texts: Iterable[str]) -> bool:
    """Tell whether texts are in a script that writes no spaces between words, such as Chinese, Japanese or Thai.

    >>> lacks_spaces(["打开客厅的灯", "OK"])
    True
    >>> lacks_spaces(["불을 켜 줘", "ብርሃኑን አብራ"])
    False
    """
    counts = Counter(chain.from_iterable(texts))
    letters = {letter: count for letter, count in counts.items() if letter.isalpha()}
    return 2 * sum(count for letter, count in letters.items() if _is_unspaced(letter)) > sum(letters.values())


def _is_unspaced(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(UNSPACED_SCRIPTS)


def read_text(file: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Args:
        file: Path; `~` is the home folder.

    Returns:
        Its text.

    Raises:
        ValueError: It cannot be read, or is not UTF-8.
    """
    try:
        return Path(file).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file in UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error


def read_sentences(file: str | os.PathLike[str], argument: str, or_else: str = "") -> list[str]:
    """Read a text file with one sentence a line; blank lines are left out.

    Args:
        file: Its path.
        argument: That named it, for the error.
        or_else: What could be given instead of a file, for the error.

    Raises:
        ValueError: There is no such file, or it is not UTF-8.
    """
    if not Path(file).is_file():
        raise ValueError(f"{argument} {file}: no such file; give a text file with one sentence a line{or_else}")
    return [sentence for line in read_text(file).splitlines() if (sentence := line.strip())]


def _kept_or_space(character: str) -> str:
    if character == "'":
        return character
    category = unicodedata.category(character)
    if category in ("Cf", "Me") or _VARIATION.match(character):
        return ""  # direction marks, joiners, soft hyphens, byte-order marks; what makes signs coloured or framed
    return character if category[0] in "LMN" else " "


def _collapse(text: str) -> str:
    """Drop apostrophes that are not between two letters (quotation marks), then make every run of spaces one."""
    return " ".join(_LOOSE_APOSTROPHE.sub(" ", text).split())
