import json
import math

import pytest

from hf_speechft.decoding.transcript import TimedWord, Transcript


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        (TimedWord("a", 0.12349, 1.0), {"text": "a", "start_s": 0.123, "end_s": 1.0}),
        (TimedWord("a", 0.0, 1.0, 0.98765), {"text": "a", "start_s": 0.0, "end_s": 1.0, "confidence": 0.9877}),
    ],
)
def test_to_dict_of_a_word_has_a_confidence_where_it_is_known(word, fields):
    assert word.to_dict() == fields


@pytest.mark.parametrize(("score", "written"), [(1.23456, 1.235), (math.inf, None)])
def test_to_dict_of_a_transcript_is_json(score, written):
    fields = Transcript("a", [TimedWord("a", 0.0, 1.0)], 1.50004, score).to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == {
        "text": "a",
        "words": [{"text": "a", "start_s": 0.0, "end_s": 1.0}],
        "duration_s": 1.5,
        "rejection_score": written,
    }


def test_to_dict_without_phrases_has_no_rejection_score():
    assert Transcript("", [], 2.0).to_dict() == {"text": "", "words": [], "duration_s": 2.0}
