"""Columns of a source: which holds what, and what is written of it."""

import math

import pytest
from datasets import ClassLabel, Dataset

from hf_speechft.data.columns import ColumnNames, find_columns, to_text


def test_find_columns_takes_usual_names_in_order_and_named_ones_first():
    raw = Dataset.from_dict({"path": ["a"], "sentence": ["b"], "text": ["c"], "client_id": ["d"], "words": ["e"]})
    assert find_columns(raw, "train", ColumnNames()) == ColumnNames("path", "text", "client_id")
    assert find_columns(raw, "train", ColumnNames(text="words")).text == "words"


def test_find_columns_of_a_stream_matches_the_split():
    raw = Dataset.from_dict({"file": ["a"], "transcript": ["b"]})
    assert find_columns(raw.to_iterable_dataset(), "train", ColumnNames()) == find_columns(raw, "train", ColumnNames())


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (math.nan, ""), (7.0, "7"), (7.5, "7.5"), (7, "7"), ("007", "007")]
)
def test_to_text_writes_numbers_and_missing_values(value, text):
    assert to_text(value) == text


def test_to_text_writes_the_name_of_a_class():
    assert to_text(1, ClassLabel(names=["yes", "no"])) == "no"
