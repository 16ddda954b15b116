"""`hf-speechft transcribe-dataset`: rows in the order of the source, kills, several processes, error rates."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from pyarrow import parquet
from typer.testing import CliRunner

from hf_speechft import SpeechBertForCTC, SpeechBertProcessor
from hf_speechft.apps.command import app
from hf_speechft.apps.transcribe_dataset import transcribe_dataset
from hf_speechft.data.audio import load_audio
from hf_speechft.decoding import transcribe
from tests.apps.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
KILLS = 4


def run(*arguments):
    return CliRunner().invoke(app, ["transcribe-dataset", *map(str, arguments)], prog_name="hf-speechft")


def read(folder):
    return [json.loads(line) for line in (folder / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()]


def write_clips(folder, waveform, seconds):
    """Clips of different sound and the given lengths, named so that their order is not that of their lengths."""
    folder.mkdir()
    for number, duration_s in enumerate(seconds):
        samples = np.roll(waveform, 997 * number)[: round(duration_s * RATE_HZ)]
        soundfile.write(folder / f"{number:02d}.wav", samples, RATE_HZ)
    return folder


@pytest.fixture
def clips(tmp_path, waveform):
    return write_clips(tmp_path / "clips", waveform, (0.5, 2.5, 1.0, 1.1, 3.0))


def text_of(model_folder, path):
    model = SpeechBertForCTC.from_pretrained(model_folder).eval()
    processor = SpeechBertProcessor.from_pretrained(model_folder)
    return transcribe([load_audio(path, RATE_HZ)], model, processor).text


def test_folder_gets_a_row_for_each_file_in_its_order(model_folder, clips, tmp_path):
    (clips / "zz").mkdir()
    (clips / "00.wav").rename(clips / "zz" / "00.flac")  # by its content it is wav
    result = run(clips, "--output-dir", tmp_path / "out", "--model", model_folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["5 recordings, 0.00 h", f"transcripts: {tmp_path / 'out'}/transcripts.jsonl"]
    rows = read(tmp_path / "out")
    assert [row["index"] for row in rows] == list(range(5))
    assert [row["utterance_id"] for row in rows] == ["01.wav", "02.wav", "03.wav", "04.wav", "zz/00.flac"]
    assert [row["duration_s"] for row in rows] == [2.5, 1.0, 1.1, 3.0, 0.5]
    assert [row["text"] for row in rows] == [text_of(model_folder, clips / row["utterance_id"]) for row in rows]
    assert len({row["text"] for row in rows}) == 5
    assert all(word["end_s"] <= row["duration_s"] for row in rows for word in row["words"])


def test_references_are_written_and_give_jiwers_error_rates(model_folder, clips, tmp_path):
    references = ["A bcd!", "efg", "xyz q", "a", "b a c"]
    lines = [f'{number:02d}.wav,"{text}"' for number, text in enumerate(references)]
    (clips / "metadata.csv").write_text("\n".join(["file_name,transcription", *lines]) + "\n")
    model = shutil.copytree(model_folder, tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"text_normalizer": "basic"}))
    result = run(clips, "--output-dir", tmp_path / "out", "--model", model)
    assert result.exit_code == 0, result.stderr
    rows = read(tmp_path / "out")
    assert [row["reference"] for row in rows] == references
    spoken = ["a bcd", *references[1:]]
    wer, cer = (rate(spoken, [row["text"] for row in rows]) for rate in (jiwer.wer, jiwer.cer))
    assert f"WER {100 * wer:.1f} %, CER {100 * cer:.1f} %" in result.stdout.splitlines()


def test_missing_references_are_not_compared(model_folder, clips, tmp_path):
    (clips / "metadata.csv").write_text('file_name,text\n00.wav,\n01.wav,efg\n02.wav," "\n03.wav,a\n04.wav,\n')
    result = run(clips, "--output-dir", tmp_path / "out", "--model", model_folder)
    rows = [row for row in read(tmp_path / "out") if row["reference"].strip()]
    wer = jiwer.wer(["efg", "a"], [row["text"] for row in rows])
    assert f"WER {100 * wer:.1f} %" in result.stdout
    (clips / "metadata.csv").write_text("file_name,text\n" + "".join(f"0{number}.wav,\n" for number in range(5)))
    assert "WER" not in run(clips, "--output-dir", tmp_path / "none", "--model", model_folder).stdout


def test_parquet_holds_what_json_lines_hold_and_is_made_from_what_is_done(model_folder, clips, tmp_path, monkeypatch):
    options = (clips, "--output-dir", tmp_path / "out", "--model", model_folder)
    assert run(*options).exit_code == 0
    monkeypatch.setattr("hf_speechft.decoding.bulk.transcribe_batch", None)  # whatever is transcribed again fails
    result = run(*options, "--format", "parquet")
    assert result.exit_code == 0, result.stderr
    table = parquet.read_table(tmp_path / "out" / "transcripts.parquet").to_pylist()
    for row, line in zip(table, read(tmp_path / "out"), strict=True):
        assert {name: row[name] for name in ("index", "utterance_id", "text", "duration_s", "error")} == {
            name: line[name] for name in ("index", "utterance_id", "text", "duration_s", "error")
        }


def test_unreadable_file_has_a_row_is_counted_and_is_tried_again(model_folder, clips, tmp_path):
    good = (clips / "02.wav").read_bytes()
    (clips / "02.wav").write_bytes(b"no sound here " * 50)
    options = (clips, "--output-dir", tmp_path / "out", "--model", model_folder)
    result = run(*options)
    assert result.exit_code == 0, result.stderr
    assert "4 recordings, 0.00 h" in result.stdout
    assert "1 could not be transcribed, the first: 02.wav: " in result.stdout
    before = read(tmp_path / "out")
    assert before[2]["text"] is None
    assert "is not audio" in before[2]["error"]
    (clips / "02.wav").write_bytes(good)
    assert "5 recordings" in run(*options).stdout
    after = read(tmp_path / "out")
    assert after[:2] + after[3:] == before[:2] + before[3:]
    assert after[2]["text"] == text_of(model_folder, clips / "02.wav")


def test_decoding_options_are_those_of_transcribe(model_folder, clips, tmp_path):
    (tmp_path / "phrases.txt").write_text("turn on\nturn off\n")
    options = ("--model", model_folder, "--phrases", tmp_path / "phrases.txt")
    assert run(clips, "--output-dir", tmp_path / "out", *options).exit_code == 0
    one = CliRunner().invoke(app, ["transcribe", str(clips / "03.wav"), "--json", *map(str, options)])
    alone, row = json.loads(one.stdout), read(tmp_path / "out")[3]
    assert row["text"] == alone["text"]
    assert row["rejection_score"] == pytest.approx(alone["rejection_score"], abs=0.01)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--beams", "4"], "beams was None and is 4"),
        (["--hotword", "a"], "hotwords was {} and is {'a': 5.0}"),
        (["--chunk-s", "5"], "chunk_s was None and is 5.0"),
    ],
)
def test_another_way_of_transcribing_is_not_mixed_in(model_folder, clips, tmp_path, changed, message):
    options = (clips, "--output-dir", tmp_path / "out", "--model", model_folder)
    assert run(*options).exit_code == 0
    before = read(tmp_path / "out")
    result = run(*options, *changed)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert "or another --output-dir" in result.stderr
    assert read(tmp_path / "out") == before


def test_other_recordings_are_not_mixed_in(model_folder, clips, tmp_path):
    options = (clips, "--output-dir", tmp_path / "out", "--model", model_folder)
    assert run(*options).exit_code == 0
    (clips / "04.wav").rename(clips / "other.wav")
    assert "recordings was 5 of names" in run(*options).stderr


def test_files_that_decide_nothing_may_change_while_a_run_is_interrupted(model_folder, clips, tmp_path):
    model = shutil.copytree(model_folder, tmp_path / "model")
    assert run(clips, "--model", model, "--output-dir", model).exit_code == 0
    before = read(model)
    (model / "README.md").write_text("new")
    (model / ".DS_Store").touch()
    result = run(clips, "--model", model, "--output-dir", model)  # results lie beside the model too
    assert result.exit_code == 0, result.stderr
    assert read(model) == before


def test_a_model_that_was_trained_on_is_not_mixed_in(model_folder, clips, tmp_path):
    model = shutil.copytree(model_folder, tmp_path / "model")
    options = (clips, "--output-dir", tmp_path / "out", "--model", model)
    assert run(*options).exit_code == 0
    os.utime(model / "model.safetensors", (4e9, 4e9))
    result = run(*options)
    assert result.exit_code == 1
    assert f"model was {model} of 20" in result.stderr
    assert f"and is {model} of 2096-10-02T07:06:40+00:00" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing/folder/here"], "missing/folder/here: no such file or folder"),
        (["{clips}", "--split", "dev"], "there is no split 'dev'; the corpus has train"),
        (["{clips}", "--phrases", "missing.txt"], "missing.txt cannot be read"),
        (["{clips}", "--chunk-s", "30"], "chunk_s is 30 s"),
        (["{clips}", "--output-dir", "{clips}/out"], "choose a folder outside of it"),
    ],
)
def test_mistake_is_one_line_and_leaves_nothing(model_folder, clips, tmp_path, arguments, message):
    arguments = [argument.format(clips=clips) for argument in arguments]
    result = run("--output-dir", tmp_path / "out", "--model", model_folder, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_progress_is_shown_on_a_terminal(model_folder, clips, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    transcribe_dataset(str(clips), tmp_path / "out", model=str(model_folder), batch_seconds=3.0)
    assert "Transcribing: 100% of 0.00 h |" in terminal.shown


def count_rows(out):
    """Whole lines in all parts."""
    return sum(part.read_bytes().count(b"\n") for part in out.glob("parts/*.jsonl"))


@pytest.mark.slow
def test_killed_run_is_finished_by_two_processes_with_every_recording_once(model_folder, tmp_path, waveform):
    random = np.random.default_rng()
    clips = write_clips(tmp_path / "clips", waveform, random.uniform(0.3, 3.0, 60))
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(clips, "--output-dir", whole, "--model", model_folder, "--batch-seconds", 1).exit_code == 0

    processes = multiprocessing.get_context("forkserver")  # a server that has imported everything starts them
    processes.set_forkserver_preload(["accelerate", "datasets", "transformers", "hf_speechft.decoding.bulk"])
    options = {"model": str(model_folder), "batch_seconds": 1.0}
    for kill in range(KILLS):
        process = processes.Process(target=transcribe_dataset, args=(str(clips), out), kwargs=options)
        enough = count_rows(out) + random.integers(1, 11)
        process.start()
        while count_rows(out) < enough:
            assert process.is_alive()
        time.sleep(random.uniform(0, 0.01))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (out / "transcripts.jsonl").exists()
        if kill == 1:  # as if it had been killed while it wrote
            part = max(out.glob("parts/*.jsonl"))
            part.write_bytes(part.read_bytes()[:-20])

    launch = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0", "-m"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, "hf_speechft.apps.transcribe_dataset"]
    command += [str(clips), "--output_dir", str(out), "--model", str(model_folder), "--batch_seconds", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.startswith("60 recordings, 0.0")
    assert read(out) == read(whole)
    lines = [line for part in out.glob("parts/*.jsonl") for line in part.read_bytes().splitlines(keepends=True)]
    whole_lines = Counter(json.loads(line)["index"] for line in lines if line.endswith(b"\n"))
    assert whole_lines == Counter(range(60))
    assert len(lines) == 61  # and the one that was cut off
    last = sorted(part.name for part in out.glob("parts/*.jsonl"))[-2:]
    assert last == [f"{KILLS + 1:05d}-00000.jsonl", f"{KILLS + 1:05d}-00001.jsonl"]
