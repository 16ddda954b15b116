"""Subtitles: the rules for cues hold wherever they can, and the files are read back by FFmpeg."""

import io
import json
from dataclasses import replace

import av
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_speechft.decoding.subtitles import Cue, make_cues, to_json, to_srt, to_vtt
from hf_speechft.decoding.transcript import TimedWord

TOLERANCE_S = 1e-6


@st.composite
def spoken(draw, longest_word=60, most_words=25):
    """Words of all lengths, spoken fast and slowly, with pauses, on a grid of milliseconds."""
    count = draw(st.integers(0, most_words))
    words, time_ms = [], draw(st.integers(0, 5_000))
    for _ in range(count):
        length = draw(st.one_of(st.integers(1, 12), st.integers(1, longest_word)))
        mark = draw(st.sampled_from(["", "", "", ".", ",", "?"]))
        duration_ms = draw(st.one_of(st.integers(20, 600), st.integers(1, 9_000)))
        words.append(TimedWord("x" * length + mark, time_ms / 1000, (time_ms + duration_ms) / 1000, 0.5))
        time_ms += duration_ms + draw(st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 5_000)))
    return words


def speak(text, seconds_a_character=0.06, pause_s=0.05, start_s=0.0):
    words = []
    for word in text.split():
        end_s = start_s + seconds_a_character * len(word)
        words.append(TimedWord(word, start_s, end_s, 0.9))
        start_s = end_s + pause_s
    return words


def missing_s(words, cuts):
    """Seconds of reading time that cues of these words cannot have, or `None` where a cue breaks another rule."""
    total = 0.0
    for first, end in zip(cuts, cuts[1:], strict=False):
        texts = [word.text for word in words[first:end]]
        lines = [(" ".join(texts[:cut]), " ".join(texts[cut:])) for cut in range(len(texts))]
        if not any(all(len(line) <= 42 or " " not in line for line in pair) for pair in lines):
            return None
        start_s = words[first].start_s
        if end - first > 1 and words[end - 1].end_s - start_s > 7:
            return None
        needed_s = min(max(1.0, len(" ".join(texts)) / 20), 7.0)
        limit_s = min(start_s + 7, words[end].start_s if end < len(words) else float("inf"))
        total += max(0.0, start_s + needed_s - limit_s)
    return total


def ways_to_cut(count):
    for chosen in range(2 ** (count - 1)):
        yield [0, *(place for place in range(1, count) if chosen >> (place - 1) & 1), count]


@given(spoken())
@settings(max_examples=80)
def test_make_cues_keeps_all_words_in_order(words):
    cues = make_cues(words)
    assert [word for cue in cues for word in cue.words] == words
    assert [" ".join(cue.lines) for cue in cues] == [" ".join(word.text for word in cue.words) for cue in cues]


@given(spoken())
@settings(max_examples=80)
def test_make_cues_limits_of_lines_and_times_hold(words):
    cues = make_cues(words)
    for cue, following in zip(cues, [*cues[1:], None], strict=False):
        assert 1 <= len(cue.lines) <= 2
        assert all(len(line) <= 42 or " " not in line for line in cue.lines)
        assert cue.start_s == cue.words[0].start_s
        assert cue.start_s < cue.end_s <= cue.start_s + 7 + TOLERANCE_S
        assert following is None or cue.end_s <= following.start_s
        assert len(cue.words) == 1 or cue.end_s >= cue.words[-1].end_s


@given(spoken())
@settings(max_examples=80)
def test_make_cues_stays_until_read_or_until_the_next_cue(words):
    cues = make_cues(words)
    for cue, following in zip(cues, [*cues[1:], None], strict=False):
        needed_s = min(max(1.0, len(" ".join(cue.lines)) / 20), 7.0)
        is_read = cue.end_s - cue.start_s >= needed_s - TOLERANCE_S
        assert is_read or cue.end_s == following.start_s


@given(spoken(most_words=9))
@example(speak("yes") + speak("no", start_s=0.7) + speak("well", start_s=1.0))
@settings(max_examples=60)
def test_make_cues_misses_no_more_reading_time_than_any_other_way_to_cut(words):
    """1 s and 20 characters a second are kept wherever a way to cut the words keeps them."""
    cuts = [0]
    for cue in make_cues(words):
        cuts.append(cuts[-1] + len(cue.words))
    if words:
        possible = [missing for way in ways_to_cut(len(words)) if (missing := missing_s(words, way)) is not None]
        assert missing_s(words, cuts) == pytest.approx(min(possible), abs=1e-6)


def test_make_cues_without_words_is_empty():
    assert make_cues([]) == []
    assert (to_srt([]), to_vtt([]), json.loads(to_json([]))) == ("", "WEBVTT\n", {"cues": []})


def test_make_cues_line_of_42_characters_is_one_line_and_43_are_two():
    fits = speak("the quick brown fox jumps over a lazy dogs")
    assert [cue.lines for cue in make_cues(fits)] == [("the quick brown fox jumps over a lazy dogs",)]
    assert len(" ".join(word.text for word in fits)) == 42
    line = " ".join(word.text for word in fits)
    assert [cue.lines for cue in make_cues(speak(f"{line} {line}"))] == [(line, line)]
    (cue,) = make_cues(speak("the quick brown fox jumps over the lazy dog"))
    assert cue.lines == ("the quick brown fox", "jumps over the lazy dog")


def test_make_cues_word_longer_than_a_line_has_its_own():
    long = "donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    (cue,) = make_cues(speak(f"die {long}"))
    assert cue.lines == ("die", long)


def test_make_cues_cuts_at_the_pause():
    words = speak("turn on the light") + speak("and close the door", start_s=3.0)
    assert [cue.lines for cue in make_cues(words)] == [("turn on the light",), ("and close the door",)]
    close = speak("turn on the light") + speak("and close the door", start_s=1.3)
    assert [cue.lines for cue in make_cues(close)] == [("turn on the light and close the door",)]


def test_make_cues_cuts_at_the_end_of_a_sentence():
    first, second = "He opened the window and looked out.", "Nobody was there, so he closed it and went back to bed."
    assert [" ".join(cue.lines) for cue in make_cues(speak(f"{first} {second}"))] == [first, second]
    quoted = speak(f"“{first}” {second}")
    assert [" ".join(cue.lines) for cue in make_cues(quoted)] == [f"“{first}”", second]


def test_make_cues_without_pauses_are_even():
    """Ten words of eight characters don't fit into one cue: neither nine and one nor eight and two."""
    assert [len(cue.words) for cue in make_cues(speak("abcdefgh " * 10))] == [5, 5]


def test_make_cues_short_word_stays_into_the_pause():
    cues = make_cues([TimedWord("stop", 1.0, 1.3), TimedWord("now", 1.9, 2.2), TimedWord("please", 6.0, 6.5)])
    assert [(cue.lines, cue.start_s, cue.end_s) for cue in cues] == [
        (("stop now",), 1.0, 2.2),  # apart, "stop" would last 0.9 s
        (("please",), 6.0, 7.0),
    ]


def test_make_cues_fast_speech_keeps_its_words():
    """Speech of 30 characters a second cannot be shown at 20; it is shown as long as it is spoken."""
    words = speak("abcde " * 60, seconds_a_character=0.03, pause_s=0.03)
    cues = make_cues(words)
    assert sum(len(cue.words) for cue in cues) == 60
    for cue, following in zip(cues, cues[1:], strict=False):
        assert cue.end_s == following.start_s
    characters = len(" ".join(cues[-1].lines))
    assert cues[-1].end_s - cues[-1].start_s == pytest.approx(characters / 20)  # nothing follows


def test_make_cues_word_of_many_seconds_is_shown_for_seven():
    (cue,) = make_cues([TimedWord("ooooh", 2.0, 20.0)])
    assert (cue.start_s, cue.end_s) == (2.0, 9.0)


def test_make_cues_words_without_spaces_are_joined():
    words = [TimedWord(char, 0.3 * index, 0.3 * index + 0.2) for index, char in enumerate("你好世界")]
    assert make_cues(words, separator="")[0].lines == ("你好世界",)
    long = [TimedWord("字", 0.1 * index, 0.1 * index + 0.1) for index in range(60)]
    assert [cue.lines for cue in make_cues(long, separator="")] == [("字" * 15, "字" * 15)] * 2


def test_make_cues_full_width_characters_count_as_two_and_combining_marks_as_none():
    slow = [TimedWord("字", 0.2 * index, 0.2 * index + 0.2) for index in range(60)]
    cues = make_cues(slow, separator="")
    assert "".join(line for cue in cues for line in cue.lines) == "字" * 60
    assert all(len(line) <= 21 for cue in cues for line in cue.lines)
    assert all(len("".join(cue.lines)) <= 10 * (cue.end_s - cue.start_s) + TOLERANCE_S for cue in cues)
    (cue,) = make_cues([TimedWord("ปิ", 0.1 * index, 0.1 * index + 0.1) for index in range(42)], separator="")
    assert cue.lines == ("ปิ" * 42,)


def test_make_cues_punctuation_of_its_own_begins_neither_cue_nor_line():
    text = "字" * 14 + "。」" + "字" * 25 + "，" + "字" * 14 + "。"
    words = [TimedWord(char, 0.25 * index, 0.25 * index + 0.25) for index, char in enumerate(text)]
    cues = make_cues(words, separator="")
    assert "".join(line for cue in cues for line in cue.lines) == text
    assert not any(line[0] in "。」，" for cue in cues for line in cue.lines)
    words = [
        TimedWord(char, 0.15 * index, 0.15 * index + 0.15) for index, char in enumerate("字" * 11 + "，" + "字" * 11)
    ]
    assert [cue.lines for cue in make_cues(words, separator="")] == [("字" * 11 + "，", "字" * 11)]


@pytest.mark.parametrize("end_s", [1.4, 60.0])
def test_make_cues_keeps_words_that_start_together_together(end_s):
    """As a token gives them that writes two words; at 20 characters a second each would be better off alone."""
    words = [
        TimedWord("a" * 30, 0.0, 1.0),
        TimedWord("b" * 30, 1.0, end_s),
        TimedWord("c" * 30, 1.0, end_s),
        TimedWord("d" * 30, 61.0, 62.0),
    ]
    cues = make_cues(words)
    assert [len(cue.words) for cue in cues] == [1, 2, 1]
    assert all(cue.start_s < cue.end_s for cue in cues)


def test_make_cues_line_breaks_in_a_word_become_spaces():
    assert make_cues([TimedWord("living\n\nroom", 0.0, 1.0)])[0].lines == ("living room",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([TimedWord(" ", 1.0, 2.0)], "word 0 at 1 s has no text"),
        ([TimedWord("a", 2.0, 1.0)], "word 0, 'a', is timed 2 s to 1 s"),
        ([TimedWord("a", -1.0, 1.0)], "is timed -1 s to 1 s"),
        ([TimedWord("a", float("nan"), 1.0)], "is timed nan s to 1 s"),
        ([TimedWord("a", 0.0, float("inf"))], "is timed 0 s to inf s; times need to be finite"),
        (
            [TimedWord("a", 1.0, 2.0), TimedWord("b", 0.5, 2.0)],
            "word 1, 'b', starts at 0.5 s and the word before it at 1",
        ),
        (
            [TimedWord("word", 1.0, 2.0)] * 20,
            "20 words from 'word' on start at 1 s, and a caption's 2 lines",
        ),
    ],
)
def test_make_cues_bad_words_raise(words, message):
    with pytest.raises(ValueError, match=message):
        make_cues(words)


CUES = [
    Cue(0.0, 1.2346, ("Tom & Jerry <3",), (TimedWord("Tom", 0.0, 0.4, 0.98765),)),
    Cue(3_661.0, 3_662.9996, ("a --> b", "second line"), (TimedWord("a", 3_661.0, 3_661.5),)),
    Cue(360_000.25, 360_001.5, ("late",), (TimedWord("late", 360_000.25, 360_001.0, 1.0),)),
]


def test_to_srt_writes_numbers_commas_and_hours():
    assert to_srt(CUES) == (
        "1\n00:00:00,000 --> 00:00:01,235\nTom & Jerry <3\n\n"
        "2\n01:01:01,000 --> 01:01:03,000\na --> b\nsecond line\n\n"
        "3\n100:00:00,250 --> 100:00:01,500\nlate\n"
    )


def test_to_vtt_writes_header_dots_and_escapes():
    assert to_vtt(CUES) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.235\nTom &amp; Jerry &lt;3\n\n"
        "01:01:01.000 --> 01:01:03.000\na --&gt; b\nsecond line\n\n"
        "100:00:00.250 --> 100:00:01.500\nlate\n"
    )


def test_to_json_writes_cues_with_words():
    first, second, _ = json.loads(to_json(CUES))["cues"]
    assert first == {
        "start_s": 0.0,
        "end_s": 1.235,
        "lines": ["Tom & Jerry <3"],
        "words": [{"text": "Tom", "start_s": 0.0, "end_s": 0.4, "confidence": 0.9877}],
    }
    assert second["lines"] == ["a --> b", "second line"]
    assert second["words"][0]["confidence"] is None


@given(spoken(longest_word=30, most_words=15))
@settings(max_examples=30)
@pytest.mark.parametrize(("write", "name"), [(to_srt, "srt"), (to_vtt, "webvtt")])
def test_files_are_read_back_by_ffmpeg(write, name, words):
    cues = make_cues(words)
    if not cues:
        return
    with av.open(io.BytesIO(write(cues).encode()), format=name) as file:
        read = [
            (float(packet.pts * packet.time_base), float(packet.duration * packet.time_base), bytes(packet).decode())
            for packet in file.demux()
            if packet.size
        ]
    assert [text.strip() for _, _, text in read] == ["\n".join(cue.lines) for cue in cues]
    for (start_s, duration_s, _), cue in zip(read, cues, strict=True):
        assert (start_s, start_s + duration_s) == pytest.approx((cue.start_s, cue.end_s), abs=1.1e-3)


def test_to_srt_cues_that_touch_do_not_overlap_after_rounding():
    words = [replace(word, end_s=word.start_s + 0.01) for word in speak("abcdefgh " * 40, pause_s=0.0123456)]
    times = [line.split(" --> ") for line in to_srt(make_cues(words)).splitlines() if "-->" in line]
    assert all(end <= following for (_, end), (following, _) in zip(times, times[1:], strict=False))
    assert all(start < end for start, end in times)
