"""Words with times to subtitles: cues that people can read, as SubRip (SRT), WebVTT or JSON.

    words with times -> cues (which words are shown together, from when to when, in which lines) -> text of a file

Where to cut is chosen over the whole recording at once: of all ways to cut it, first those that keep the rules for
reading time, and of these the one that cuts at the longest pauses and the ends of sentences.

Source: Netflix, "Timed Text Style Guide": at most 42 characters a line, 2 lines, 7 s a cue, and 20 characters a second
for adults' programmes in English. Its shortest cue of 5/6 s is rounded up to 1 s here. Full-width characters, as those
of Chinese, Japanese and Korean, count as two, and combining marks as none.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from .transcript import TimedWord

__all__ = ["Cue", "make_cues", "to_json", "to_srt", "to_vtt"]

LINE_CHARACTERS = 42
SHORTEST_S = 1.0
LONGEST_S = 7.0
CHARACTERS_PER_S = 20.0
PAUSE_S = 0.5  # words on either side of a longer silence are shown apart
SENTENCE_PAUSES_S = {**dict.fromkeys(".?!…。？！", 1.0), **dict.fromkeys(",;:，、；：", 0.3)}
CLOSING = "\"'”’»)」』）】》"
MARKS = {*SENTENCE_PAUSES_S, *CLOSING}  # where they are words of their own, they stay with the word before
EVENNESS_S = 0.1  # pause that an almost empty cue beside a full one is worth


@dataclass(frozen=True)
class Cue:
    """What is on the screen from `start_s` to `end_s`: one line or two, and the words in them."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]
    words: tuple[TimedWord, ...]


def make_cues(words: Iterable[TimedWord], *, separator: str = " ") -> list[Cue]:
    """Choose which words are shown together, for how long, and in which lines.

    Each cue has at most 2 lines of 42 characters and lasts at most 7 s, except that a word is never cut: one that is
    longer than a line has a line of its own. A cue lasts at least 1 s and has at most 20 characters a second
    wherever the words' times leave a choice; to that end it may stay after its last word, up to the next cue. No two
    cues overlap.

    Args:
        words: In the order they were spoken.
        separator: Between two words; "" in languages without spaces.

    Returns:
        The cues in order; each word is in one of them.

    Raises:
        ValueError: A word has no text, its times are not finite and in order, or it starts before the one before it.
    """
    words = list(words)
    texts = [" ".join(word.text.split()) for word in words]
    _check_words(words, texts)
    ends = _choose_ends(words, texts, len(separator))
    cues, first = [], 0
    while first < len(words):
        end = ends[first]
        start_s, limit_s = words[first].start_s, _limit_s(words, first, end)
        end_s = max(words[end - 1].end_s, start_s + _reading_s(_width(separator.join(texts[first:end]))))
        lines = _break_lines(texts[first:end], separator)
        cues.append(Cue(start_s, min(end_s, limit_s), lines, tuple(words[first:end])))
        first = end
    return cues


def to_srt(cues: Sequence[Cue]) -> str:
    """Write cues as a SubRip file.

    >>> print(to_srt(make_cues([TimedWord("hello", 0.5, 0.9), TimedWord("world", 1.0, 1.7)])), end="")
    1
    00:00:00,500 --> 00:00:01,700
    hello world
    """
    blocks = [
        f"{number}\n{_timestamp(cue.start_s, ',')} --> {_timestamp(cue.end_s, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues, start=1)
    ]
    return "\n".join(blocks)


def to_vtt(cues: Sequence[Cue]) -> str:
    """Write cues as a WebVTT file; `&`, `<` and `>`, which begin markup there, are escaped."""
    blocks = [
        f"{_timestamp(cue.start_s, '.')} --> {_timestamp(cue.end_s, '.')}\n" + _escape("\n".join(cue.lines)) + "\n"
        for cue in cues
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def to_json(cues: Sequence[Cue]) -> str:
    """Write cues as JSON: `{"cues": [{"start_s", "end_s", "lines", "words": [{"text", …, "confidence"}]}]}`."""
    return json.dumps({"cues": [_cue_fields(cue) for cue in cues]}, ensure_ascii=False, indent=2) + "\n"


def _check_words(words: Sequence[TimedWord], texts: Sequence[str]) -> None:
    last_s = 0.0
    for index, (word, text) in enumerate(zip(words, texts, strict=True)):
        if not text:
            raise ValueError(f"word {index} at {word.start_s:g} s has no text; leave it out")
        if not 0 <= word.start_s <= word.end_s < float("inf"):
            raise ValueError(
                f"word {index}, {text!r}, is timed {word.start_s:g} s to {word.end_s:g} s; times need to be finite, "
                "not negative, and the end not before the start"
            )
        if word.start_s < last_s:
            raise ValueError(
                f"word {index}, {text!r}, starts at {word.start_s:g} s and the word before it at {last_s:g} s; give "
                "them in the order of their times"
            )
        last_s = word.start_s


def _choose_ends(words: Sequence[TimedWord], texts: Sequence[str], separator: int) -> list[int]:
    """Return for each word, taken as a cue's first, the word after the cue's last in the best way to cut the rest.

    Ways are compared by the seconds of reading time that are missing, then by the pauses within cues. `separator` is
    the length of the separator.
    """
    lengths = [0, *accumulate(_width(text) + separator for text in texts)]
    line_ends = _line_ends(lengths, separator)
    costs: list[tuple[float, float]] = [(0.0, 0.0)] * (len(words) + 1)
    ends = [0] * len(words)
    for first in range(len(words) - 1, -1, -1):
        best, kept_pauses_s = None, 0.0
        second_line = line_ends[first]
        last_end = line_ends[second_line] if second_line < len(words) else second_line
        for end in range(first + 1, last_end + 1):
            if end > first + 1:
                kept_pauses_s += _pause_s(words[end - 2], words[end - 1])
                is_long = words[end - 1].end_s - words[first].start_s > LONGEST_S
                if is_long and not _start_together(words[end - 2], words[end - 1]):
                    break
            if end < len(words) and _start_together(words[end - 1], words[end]):
                continue
            characters = lengths[end] - lengths[first] - separator
            missing_s = _reading_s(characters) - (_limit_s(words, first, end) - words[first].start_s)
            emptiness = max(0.0, 1 - characters / (2 * LINE_CHARACTERS))
            cost = (
                costs[end][0] + (missing_s if missing_s > 1e-9 else 0.0),
                costs[end][1] + kept_pauses_s + PAUSE_S + EVENNESS_S * emptiness**2,
            )
            if best is None or cost < best:
                best, ends[first] = cost, end
        # None where more words start together than a cue holds: nothing can be shown from here.
        costs[first] = best or (float("inf"), 0.0)
    if costs[0][0] == float("inf"):
        raise ValueError(_crowd(words, texts))
    return ends


def _crowd(words: Sequence[TimedWord], texts: Sequence[str]) -> str:
    """Say where most words start at once."""
    start_s, count = Counter(word.start_s for word in words).most_common(1)[0]
    first = next(text for word, text in zip(words, texts, strict=True) if word.start_s == start_s)
    return (
        f"{count} words from {first!r} on start at {start_s:g} s, and a caption's 2 lines of {LINE_CHARACTERS} "
        "characters do not hold them; give words times of their own"
    )


def _start_together(word: TimedWord, following: TimedWord) -> bool:
    """Whether no time is left to show a word alone, at the resolution of subtitles; one token may write two words."""
    return round((following.start_s - word.start_s) * 1000) < 1


def _line_ends(lengths: Sequence[int], separator: int) -> list[int]:
    """Return for each word the word after the last that fits into a line with it; the first always fits."""
    ends, end = [], 0
    for first in range(len(lengths) - 1):
        end = max(end, first + 1)
        while end < len(lengths) - 1 and lengths[end + 1] - lengths[first] - separator <= LINE_CHARACTERS:
            end += 1
        ends.append(end)
    return ends


def _break_lines(texts: Sequence[str], separator: str) -> tuple[str, ...]:
    """Write words in one line, or in two whose longer one is as short as possible, and the lower one if they can."""
    line = separator.join(texts)
    if _width(line) <= LINE_CHARACTERS or len(texts) == 1:
        return (line,)
    cuts = [cut for cut in range(1, len(texts)) if texts[cut][0] not in MARKS] or range(1, len(texts))
    pairs = [(separator.join(texts[:cut]), separator.join(texts[cut:])) for cut in cuts]
    return min(pairs, key=lambda pair: (max(map(_width, pair)), _width(pair[0])))


def _width(text: str) -> int:
    """Characters that a text is as wide as."""
    narrow = sum(unicodedata.category(character) not in ("Mn", "Me", "Cf") for character in text)
    return narrow + sum(unicodedata.east_asian_width(character) in "WF" for character in text)


def _reading_s(characters: int) -> float:
    """Seconds that a cue needs to be on the screen."""
    return min(max(SHORTEST_S, characters / CHARACTERS_PER_S), LONGEST_S)


def _limit_s(words: Sequence[TimedWord], first: int, end: int) -> float:
    """Latest end of the cue of the words from `first` up to `end`: when the next one starts, 7 s at most."""
    longest_s = words[first].start_s + LONGEST_S
    return min(longest_s, words[end].start_s) if end < len(words) else longest_s


def _pause_s(word: TimedWord, following: TimedWord) -> float:
    """How good a place to cut is between two words: the silence, and what punctuation is worth in silence."""
    if MARKS.issuperset(following.text):
        return 0.0
    last = word.text.rstrip(CLOSING)[-1:]
    return max(0.0, following.start_s - word.end_s) + SENTENCE_PAUSES_S.get(last, 0.0)


def _timestamp(time_s: float, decimal_mark: str) -> str:
    """Hours, minutes, seconds and milliseconds; hours have two digits or as many as they need."""
    seconds, milliseconds = divmod(round(time_s * 1000), 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{decimal_mark}{milliseconds:03d}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cue_fields(cue: Cue) -> dict:
    words = [
        {
            "text": word.text,
            "start_s": round(word.start_s, 3),
            "end_s": round(word.end_s, 3),
            "confidence": None if word.confidence is None else round(word.confidence, 4),
        }
        for word in cue.words
    ]
    return {"start_s": round(cue.start_s, 3), "end_s": round(cue.end_s, 3), "lines": list(cue.lines), "words": words}
