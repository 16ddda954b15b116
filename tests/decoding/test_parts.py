"""Rows on the disk: nothing that was written is lost or counted twice, whatever cut the writing off."""

import json

import pytest
from pyarrow import parquet

from hf_speechft.decoding.parts import Part, find_rows, next_start, read_rows, write_jsonl, write_parquet


def row(index, text="hello", error=None):
    return {"index": index, "text": text, "error": error}


def write(folder, start, rows, process=0):
    with Part(folder, start, process) as part:
        for one in rows:
            part.append([one])


def read_all(folder):
    places = find_rows(folder)
    return list(read_rows(places[index] for index in sorted(places)))


def test_parts_of_several_starts_and_processes_are_read_in_the_order_of_the_index(tmp_path):
    write(tmp_path, 1, [row(4, "käse"), row(1)])
    write(tmp_path, 1, [row(0), row(3)], process=1)
    write(tmp_path, 2, [row(2)])
    assert read_all(tmp_path) == [row(0), row(1), row(2), row(3), row(4, "käse")]


def test_find_rows_of_no_folder_finds_nothing(tmp_path):
    assert find_rows(tmp_path / "none") == {}
    assert next_start(tmp_path / "none") == 1


def test_append_is_on_the_disk_before_the_part_is_closed(tmp_path):
    with Part(tmp_path / "new", 1, 0) as part:
        part.append([row(0), row(1)])
        assert list(find_rows(tmp_path / "new")) == [0, 1]


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_find_rows_drops_a_line_that_was_cut_off_and_keeps_those_before(tmp_path, kept):
    write(tmp_path, 1, [row(0, "ä"), row(1, "ö" * 20)])
    (part,) = tmp_path.iterdir()
    first, second = part.read_bytes().splitlines(keepends=True)
    assert kept < len(second)
    part.write_bytes(first + second[:kept])  # in the middle of a character too
    assert read_all(tmp_path) == [row(0, "ä")]
    write(tmp_path, next_start(tmp_path), [row(1, "again")])
    assert read_all(tmp_path) == [row(0, "ä"), row(1, "again")]


def test_find_rows_prefers_what_has_no_error_and_then_the_last(tmp_path):
    write(tmp_path, 1, [row(0, None, "first"), row(1, None, "unreadable"), row(2)])
    write(tmp_path, 2, [row(0, None, "second"), row(1), row(2, None, "gone")])
    places = find_rows(tmp_path)
    assert [places[index].is_error for index in range(3)] == [True, False, False]
    assert read_all(tmp_path) == [row(0, None, "second"), row(1), row(2)]


def test_find_rows_of_a_damaged_line_says_what_to_do(tmp_path):
    write(tmp_path, 1, [row(0)])
    (part,) = tmp_path.iterdir()
    part.write_bytes(part.read_bytes() + b"\0\0\0\n")
    with pytest.raises(ValueError, match=r"00001-00000\.jsonl is damaged at byte \d\d .*delete the file"):
        find_rows(tmp_path)


def test_part_of_a_run_that_is_going_on_is_not_written_into(tmp_path):
    start = next_start(tmp_path)
    write(tmp_path, start, [row(0)])
    with pytest.raises(FileExistsError, match="another run writes .*00001-00000.jsonl at this moment"):
        Part(tmp_path, start, 0)
    assert next_start(tmp_path) == start + 1


def test_write_jsonl_and_write_parquet_hold_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_speechft.decoding.parts.PARQUET_ROWS", 2)
    words = [{"text": "a", "start_s": 0.0, "end_s": 0.5, "confidence": 0.9}, {"text": "b", "start_s": 1, "end_s": 2}]
    done = {"index": 0, "utterance_id": "ä.wav", "reference": "A b", "text": "a b", "words": words, "duration_s": 2.0}
    failed = {"index": 1, "utterance_id": "b.wav", "text": None, "words": None, "duration_s": None, "error": "empty"}
    rows = [{**done, "error": None}, failed, {**done, "index": 2, "words": [], "rejection_score": 0.5, "error": None}]
    write_jsonl(iter(rows), tmp_path / "a.jsonl")
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").split("\n")[:-1]] == rows
    write_parquet(iter(rows), tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == [
        *("index", "utterance_id", "reference", "text", "words", "duration_s", "rejection_score", "error")
    ]
    for read, written in zip(table.to_pylist(), rows, strict=True):
        words = written["words"] and [{"confidence": None, **word} for word in written["words"]]
        assert read == {"reference": None, "rejection_score": None, **written, "words": words}
