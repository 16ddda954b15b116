"""Batches of recordings against each recording alone, and what happens to those that cannot be read."""

import math

import numpy as np
import pytest
import soundfile
from transformers import BertConfig

from hf_speechft.data.audio import load_audio
from hf_speechft.decoding import CTCDecoder, bulk, transcribe
from hf_speechft.decoding.bulk import BulkTranscriber, plan_batches
from tests.random_recogniser import make_recogniser

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A random model that hears many different units, and its processor."""
    backbone = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    return make_recogniser(tmp_path_factory.mktemp("vocab"), backbone)


def make_recording(folder, waveform, samples, **facts):
    path = folder / f"{samples}.wav"
    soundfile.write(path, np.resize(waveform, samples), RATE_HZ)
    recording = {
        "audio": {"bytes": None, "path": str(path)},
        "duration_s": samples / RATE_HZ,
        "utterance_id": path.name,
    }
    return recording | facts


def test_plan_batches_begins_with_the_longest_and_holds_each_once():
    durations_s = [1.0, 50.0, 3.0, math.nan, 0.0, 2.9, 70.0, 1.0]
    batches = plan_batches(durations_s, range(8), longest_s=20.0, batch_seconds=6.0)
    assert batches == [[6], [1], [2, 5], [0, 7], [3], [4]]


def test_plan_batches_of_some_recordings_leaves_the_others_out():
    durations_s = [1.0, 50.0, 3.0, math.nan]
    assert plan_batches(durations_s, [3, 2], longest_s=20.0, batch_seconds=6.0) == [[2], [3]]
    assert plan_batches(durations_s, [], longest_s=20.0, batch_seconds=6.0) == []


def test_plan_batches_of_many_recordings_keeps_to_the_budget_and_wastes_little():
    durations_s = np.random.default_rng(0).gamma(2.0, 1.5, 3_000).tolist()
    batches = plan_batches(durations_s, range(3_000), longest_s=20.0, batch_seconds=60.0)
    assert sorted(index for batch in batches for index in batch) == list(range(3_000))
    padded_s = [len(batch) * max(durations_s[index] for index in batch) for batch in batches]
    assert max(padded_s) <= 60.0
    assert sum(padded_s) < 1.05 * sum(durations_s)
    longest = [max(durations_s[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("with_decoder", [False, True])
def test_rows_are_those_of_each_recording_alone(loaded, tmp_path, waveform, with_decoder):
    decoder = CTCDecoder.from_processor(loaded[1], beam_width=4) if with_decoder else None
    samples = (20_000, 48_000, 47_000, 400, 21_000, 340_000)  # the last is longer than a chunk
    recordings = [make_recording(tmp_path, waveform, count, reference=f"said {count}") for count in samples]
    transcriber = BulkTranscriber(*loaded, decoder=decoder, batch_seconds=7.0)
    batches = [[5], [1, 2], [0, 3, 4]]
    found = list(transcriber.rows(recordings, batches))
    assert [[row["index"] for row in rows] for rows in found] == batches
    for row in (row for rows in found for row in rows):
        sound = load_audio(tmp_path / row["utterance_id"], RATE_HZ)
        alone = transcribe([sound], *loaded, decoder=decoder).to_dict()
        assert row["text"] == alone["text"]
        assert [word["start_s"] for word in row["words"]] == [word["start_s"] for word in alone["words"]]
        assert row["duration_s"] == round(samples[row["index"]] / RATE_HZ, 3)
        assert (row["reference"], row["error"]) == (f"said {samples[row['index']]}", None)
        assert list(row) == ["index", "utterance_id", "reference", "text", "words", "duration_s", "error"]


def test_rows_of_what_cannot_be_read_say_why_and_the_others_are_transcribed(loaded, tmp_path, waveform):
    good = make_recording(tmp_path, waveform, 16_000)
    text, short = tmp_path / "text.wav", make_recording(tmp_path, waveform, 100)
    text.write_text("no sound here " * 50)
    nan = tmp_path / "nan.wav"
    soundfile.write(nan, np.full(8_000, np.nan, np.float32), RATE_HZ, subtype="FLOAT")
    recordings = [
        good,
        {**good, "audio": {"bytes": None, "path": str(tmp_path / "gone.wav")}},
        {**good, "audio": {"bytes": None, "path": str(nan)}},
        short,
        {**good, "audio": {"bytes": None, "path": str(text)}, "duration_s": math.nan},
        {**good, "duration_s": math.nan},  # could not be read then, and can be now
    ]
    (together, *alone) = BulkTranscriber(*loaded).rows(recordings, [[0, 1, 2, 3], [4], [5]])
    rows = together + [row for rows in alone for row in rows]
    problems = [None, "does not exist", "samples that are NaN", "lasts 6.2 ms", "is not audio", None]
    for row, problem in zip(rows, problems, strict=True):
        if problem is None:
            assert row["error"] is None
            assert row["text"] == transcribe([load_audio(good["audio"], RATE_HZ)], *loaded).text
        else:
            assert problem in row["error"]
            assert (row["text"], row["words"], row["duration_s"]) == (None, None, None)


def test_rows_of_a_recording_that_is_longer_than_its_header_says_are_complete(loaded, tmp_path, waveform):
    long = make_recording(tmp_path, waveform, 400_000) | {"duration_s": 1.0}
    short = make_recording(tmp_path, waveform, 16_000)
    ((first, second),) = BulkTranscriber(*loaded).rows([long, short], [[0, 1]])
    assert (first["duration_s"], second["duration_s"]) == (25.0, 1.0)
    assert first["words"][-1]["end_s"] > 24


def test_rows_with_phrases_refuse_a_recording_that_no_phrase_can_be(loaded, tmp_path, waveform):
    decoder = CTCDecoder.from_processor(loaded[1], phrases=["stop"])
    recordings = [make_recording(tmp_path, waveform, samples) for samples in (500_000, 16_000)]
    ((long,), (short,)) = BulkTranscriber(*loaded, decoder=decoder).rows(recordings, [[0], [1]])
    assert "longer than 30 s" in long["error"]
    assert short["text"] == "stop"
    assert short["rejection_score"] > 0


def test_rows_load_few_batches_ahead(loaded, tmp_path, waveform, monkeypatch):
    """Memory does not depend on how many recordings there are."""
    opened = []

    def count(source, rate_hz):
        opened.append(source)
        return load_audio(source, rate_hz)

    monkeypatch.setattr(bulk, "load_audio", count)
    rows = BulkTranscriber(*loaded).rows([make_recording(tmp_path, waveform, 16_000)] * 20, [[n] for n in range(20)])
    next(rows)
    assert len(opened) <= 1 + bulk.BATCHES_AHEAD
    assert len(list(rows)) == 19
    assert len(opened) == 20
