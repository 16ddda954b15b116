"""The list of unreadable clips: from many processes, and after an interruption."""

import json
import multiprocessing
import pickle

import pytest

from hf_speechft.data.unreadable import UnreadableClip, UnreadableClips


def clip(number):
    return UnreadableClip(f"{number}@0.9", f"{number}.wav", "cut off")


def note_many(clips, start):
    for number in range(start, start + 200):
        clips.note(clip(number))


def test_clips_are_new_once_and_none_make_no_file(tmp_path):
    clips = UnreadableClips(tmp_path / "run" / "unreadable.jsonl")
    assert clips.new() == clips.all() == []
    assert not (tmp_path / "run").exists()
    clips.note(clip(1))
    clips.note(clip(1))
    assert clips.new() == [clip(1)]
    assert clips.new() == []
    clips.note(clip(2))
    assert clips.new() == [clip(2)]
    assert clips.all() == [clip(1), clip(2)]


def test_clips_of_an_earlier_process_are_not_new_but_remain(tmp_path):
    UnreadableClips(tmp_path / "x").note(clip(1))
    clips = UnreadableClips(tmp_path / "x")
    assert clips.new() == []
    clips.note(clip(1))  # met again
    assert clips.new() == [clip(1)]
    assert clips.all() == [clip(1)]


@pytest.mark.parametrize("before", [UnreadableClip("a long name", "file", "a long story"), clip(2)])
def test_clips_of_a_file_begun_anew_are_new(tmp_path, before):
    UnreadableClips(tmp_path / "x").note(before)
    clips = UnreadableClips(tmp_path / "x")
    clips.forget()
    assert clips.new() == []
    clips.note(clip(1))
    assert clips.new() == [clip(1)]


def test_clips_noted_by_several_processes_are_whole_lines(tmp_path):
    clips = UnreadableClips(tmp_path / "x")
    workers = [
        multiprocessing.get_context("fork").Process(target=note_many, args=(pickle.loads(pickle.dumps(clips)), start))
        for start in (0, 200, 0)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = (tmp_path / "x").read_text().splitlines()
    assert len(lines) == 600
    assert {json.loads(line)["file"] for line in lines} == {f"{number}.wav" for number in range(400)}
    assert len(clips.all()) == 400
