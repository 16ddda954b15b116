import json
import math

import pytest

from hf_speechft.data.corpora import load_corpus
from hf_speechft.data.findings import Finding, Flag, counted, graded, read_utterances
from tests.data.audit_corpora import Corpus, utterance


def test_finding_examples_are_the_first_of_each_split():
    rows = [utterance(split=split, row=row) for split in ("train", "test") for row in range(3)]
    finding = Finding("x", "look", "m", flags=[Flag(row) for row in rows])
    shown = [(flag.utterance.split, flag.utterance.row) for flag in finding.examples(2)]
    assert shown == [("train", 0), ("train", 1), ("test", 0), ("test", 1)]


def test_finding_to_dict_is_json_with_every_utterance():
    flags = [Flag(utterance(duration_s=math.nan), "gone"), Flag(utterance(row=1, duration_s=1.23456))]
    content = Finding("files", "problem", "2 files", "copy them", flags).to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["count"] == 2
    assert content["utterances"][0]["duration_s"] is None
    assert content["utterances"][1] == {
        "split": "train", "utterance_id": "train1.wav", "text": "turn on", "duration_s": 1.235, "note": ""
    }  # fmt: skip


@pytest.mark.parametrize(("count", "severity"), [(0, "fine"), (1, "look"), (10, "look"), (11, "problem")])
def test_graded_by_share(count, severity):
    assert graded(count, 1000) == severity


def test_counted_has_the_right_number():
    assert [counted(count, "file") for count in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]


def test_read_utterances_matches_the_corpus(tmp_path):
    corpus = load_corpus(Corpus(tmp_path).write())
    rows = read_utterances(corpus)
    assert len(rows) == 20
    for row in rows:
        theirs = corpus[row.split][row.row]
        assert (row.utterance_id, row.text, row.speaker_id) == (
            theirs["utterance_id"], theirs["text"], theirs["speaker_id"]
        )  # fmt: skip
        assert row.duration_s == theirs["duration_s"]
        assert row.is_readable
