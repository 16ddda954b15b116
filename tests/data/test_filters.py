import logging
import math

import pytest
from datasets import Dataset

from hf_speechft.data.filters import FilterReport, filter_corpus

ROWS = [
    ("good", "hello", 2.0),
    ("short", "hello", 0.05),
    ("long", "hello", 40.0),
    ("blank", " ", 2.0),
    ("broken", "hello", math.nan),
    ("dense", "hello hello hello", 0.4),
    ("better", "hi", 1.0),
]


@pytest.fixture
def split():
    ids, texts, durations_s = (list(column) for column in zip(*ROWS, strict=True))
    return Dataset.from_dict({"utterance_id": ids, "text": texts, "duration_s": durations_s})


def needed_steps(text):
    return len(text) + sum(a == b for a, b in zip(text, text[1:], strict=False))


def test_filter_corpus_every_reason_is_counted_and_named(split):
    kept, report = filter_corpus(
        split,
        min_duration_s=0.1,
        max_duration_s=30.0,
        count_steps=lambda duration_s: math.floor(duration_s * 25),
        count_needed_steps=needed_steps,
        name="train",
    )
    assert kept["utterance_id"][:] == ["good", "better"]
    assert report == FilterReport(
        name="train",
        kept=2,
        dropped={
            "unreadable audio": ["broken"],
            "empty transcript": ["blank"],
            "too short": ["short"],
            "too long": ["long"],
            "cannot be aligned": ["dense"],
        },
        kept_s=3.0,
        dropped_s=pytest.approx(42.45),
    )
    assert report.dropped_count == 5


def test_filter_corpus_exactly_enough_steps_is_kept():
    split = Dataset.from_dict({"utterance_id": ["a", "b"], "text": ["aab", "aab"], "duration_s": [4.0, 3.0]})
    kept, report = filter_corpus(split, count_steps=int, count_needed_steps=needed_steps)
    assert kept["utterance_id"][:] == ["a"]  # a a b needs three steps and a blank between the equal letters
    assert report.dropped == {"cannot be aligned": ["b"]}


def test_filter_corpus_limits_themselves_are_kept():
    split = Dataset.from_dict({"utterance_id": ["a", "b"], "text": ["x", "x"], "duration_s": [0.1, 30.0]})
    assert filter_corpus(split, min_duration_s=0.1, max_duration_s=30.0)[1].kept == 2


def test_filter_corpus_without_limits_drops_only_what_is_unusable(split):
    _, report = filter_corpus(split)
    assert report.dropped == {"unreadable audio": ["broken"], "empty transcript": ["blank"]}


def test_filter_corpus_nothing_left_raises_with_the_counts(split):
    with pytest.raises(ValueError, match=r"nothing is left.*test: kept 0 of 7 utterances.*5 too short"):
        filter_corpus(split, min_duration_s=50.0, name="test", max_duration_s=60.0)


def test_filter_corpus_drops_are_logged_as_warnings(split, caplog):
    with caplog.at_level(logging.INFO, logger="hf_speechft"):
        filter_corpus(split, name="dev")
        filter_corpus(split.select([0]), name="clean")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "dev: kept 5 of 7 utterances" in caplog.text


def test_filter_report_as_text_is_one_readable_line():
    report = FilterReport("train", 90, {"too short": ["a", "b", "c", "d", "e"], "too long": ["f"]}, 5400.0, 60.0)
    assert str(report) == (
        "train: kept 90 of 96 utterances (90.0 of 91.0 min); dropped 5 too short (a, b, c and 2 more), 1 too long (f)"
    )
    assert str(FilterReport("test", 3, {}, 60.0, 0.0)) == "test: kept 3 of 3 utterances (1.0 of 1.0 min)"
