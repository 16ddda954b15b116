"""Passes over a stream: their order, what they drop, and the same rows after an interruption."""

import math
from collections import Counter

import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_speechft.data.passes import SpeechStream

CLIPS = 40


def make_rows(clips=CLIPS, shards=4, buffer=8, bad=()):
    data = Dataset.from_dict(
        {
            "text": [f"text {number}" for number in range(clips)],
            "duration_s": [math.nan if number in bad else 1.0 + number for number in range(clips)],
            "utterance_id": [f"u{number}" for number in range(clips)],
        }
    )
    return data.to_iterable_dataset(num_shards=shards).shuffle(seed=1, buffer_size=buffer)


def keep_readable(duration_s, text):
    return "unreadable audio" if math.isnan(duration_s) else None


def make_stream(folder, rows=None, **options):
    return SpeechStream(make_rows() if rows is None else rows, keep_readable, folder=folder, **options)


def load(stream, batches, *, workers=0, batch_size=3):
    """Ids of the first batches, as a data loader gives them."""
    loader = iter(DataLoader(stream, batch_size=batch_size, num_workers=workers, collate_fn=list))
    return [[row and row["utterance_id"] for row in next(loader)] for _ in range(batches)]


def test_stream_each_pass_has_every_utterance_in_another_order(tmp_path):
    rows = iter(make_stream(tmp_path))
    passes = [[next(rows) for _ in range(CLIPS)] for _ in range(3)]
    orders = [[row["utterance_id"] for row in one] for one in passes]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert [{row["epoch"] for row in one} for one in passes] == [{0}, {1}, {2}]


def test_stream_is_the_same_for_the_same_seed(tmp_path):
    assert load(make_stream(tmp_path / "a"), 30) == load(make_stream(tmp_path / "b"), 30)


@pytest.mark.parametrize(
    ("workers", "batches"), [*((0, batches) for batches in (1, 5, 13, 14, 29, 55)), (2, 14), (3, 29)]
)
def test_stream_after_an_interruption_gives_the_same_batches(workers, batches, tmp_path):
    whole = load(make_stream(tmp_path), batches + 8, workers=workers)
    resumed = make_stream(tmp_path)
    resumed.skip(batches, 3)
    given = load(resumed, batches + 8, workers=workers)
    assert given[:batches] == [[None] * 3] * batches
    assert given[batches:] == whole[batches:]


def test_stream_after_an_interruption_does_not_read_earlier_passes(tmp_path):
    load(make_stream(tmp_path), 45)  # passes 0 to 3
    read = []

    def watch(duration_s, text):
        read.append(text)
        return keep_readable(duration_s, text)

    resumed = SpeechStream(make_rows(), watch, folder=tmp_path)
    resumed.skip(45, 3)  # row 135 is row 15 of the pass that begins at 120
    load(resumed, 46)
    assert len(read) == 15 + 3


def test_stream_notes_that_a_kill_cut_off_are_left_out(tmp_path):
    whole = load(make_stream(tmp_path), 40)
    (notes,) = tmp_path.glob("1x1/0-0.jsonl")
    notes.write_text(notes.read_text() + '\n{"pass": 9, "ro')
    resumed = make_stream(tmp_path)
    resumed.skip(30, 3)
    assert load(resumed, 40)[30:] == whole[30:]


def test_stream_that_begins_anew_forgets_the_notes_of_another_run(tmp_path):
    stream = make_stream(tmp_path, make_rows(bad=(1, 2)))
    load(stream, 20)
    assert stream.report(0).dropped
    again = make_stream(tmp_path)
    again.skip(0, 3)
    load(again, 20)
    assert not again.report(0).dropped


@pytest.mark.parametrize("shards", [4, 3])
def test_stream_processes_share_a_pass(shards, tmp_path):
    names = []
    for process in range(2):
        stream = make_stream(tmp_path, make_rows(shards=shards), process=process, processes=2)
        rows = iter(stream)
        names += [row["utterance_id"] for row in (next(rows) for _ in range(CLIPS // 2))]
    assert Counter(names) == Counter(f"u{number}" for number in range(CLIPS))


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_report_counts_and_names_what_the_first_pass_drops(workers, tmp_path):
    stream = make_stream(tmp_path, make_rows(bad=(3, 17)))
    load(stream, 60, workers=workers)
    report = stream.report(workers)
    assert report.kept == CLIPS - 2
    assert report.kept_s == sum(1.0 + number for number in range(CLIPS) if number not in (3, 17))
    assert {reason: set(names) for reason, names in report.dropped.items()} == {"unreadable audio": {"u3", "u17"}}
    assert "kept 38 of 40 utterances" in str(report)


def test_stream_without_anything_to_learn_from_ends(tmp_path):
    stream = make_stream(tmp_path, make_rows(bad=range(CLIPS)))
    assert list(stream) == []
    assert stream.report(0).dropped_count == CLIPS


def test_stream_plays_each_utterance_once_at_each_speed(tmp_path):
    speeds = (0.9, 1.0, 1.1)
    rows = iter(make_stream(tmp_path, speeds=speeds, augmented=True))
    played = [next(rows) for _ in range(3 * CLIPS)]
    heard = Counter((row["utterance_id"].partition("@")[0], row.get("speed", 1.0)) for row in played)
    assert heard == Counter({(f"u{number}", speed): 1 for number in range(CLIPS) for speed in speeds})
    assert len({row.get("speed", 1.0) for row in played[:CLIPS]}) == 3
    slow = next(row for row in played if row.get("speed") == 0.9)
    number = int(slow["utterance_id"].removesuffix("@0.9")[1:])
    assert slow["duration_s"] == pytest.approx((1 + number) / 0.9)
    assert all(row["augmented"] for row in played)
