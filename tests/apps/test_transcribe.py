"""`hf-speechft transcribe`: formats, output, and every mistake a user can make with files and models."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

from hf_speechft import (
    SpeechBertForCTC,
    SpeechBertProcessor,
)
from hf_speechft.apps import transcribe as transcribe_module
from hf_speechft.apps.command import app
from hf_speechft.data.audio import load_audio
from hf_speechft.decoding import CTCDecoder
from tests.apps.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyzäß"]


def run(*arguments):
    return CliRunner().invoke(app, ["transcribe", *map(str, arguments)], prog_name="hf-speechft")


def expected_text(model_folder, path):
    model = SpeechBertForCTC.from_pretrained(model_folder)
    processor = SpeechBertProcessor.from_pretrained(model_folder)
    inputs = processor(audio=load_audio(path, RATE_HZ), sampling_rate=RATE_HZ)
    return " ".join(processor.batch_decode(model.generate(**inputs))[0].split())


def write_m4a(path, waveform):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = RATE_HZ
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def test_transcribe_one_file_prints_its_text(model_folder, clip):
    result = run(clip, "--model", model_folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == expected_text(model_folder, clip) + "\n"
    assert len(result.stdout) > 10


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.opus", "a.m4a"])
def test_transcribe_format_matches_direct_path(model_folder, tmp_path, waveform, name):
    path = tmp_path / name
    if name.endswith("m4a"):
        write_m4a(path, waveform)
    elif name.endswith("opus"):
        soundfile.write(path, waveform, RATE_HZ, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, waveform, RATE_HZ)
    result = run(path, "--model", model_folder)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == expected_text(model_folder, path) + "\n"


def test_transcribe_other_rate_and_stereo_are_converted(model_folder, tmp_path, waveform):
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([waveform, waveform], axis=1), 44_100)
    result = run(path, "--model", model_folder, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["duration_s"] == pytest.approx(len(waveform) / 44_100, abs=0.001)


def test_transcribe_several_files_names_each(model_folder, clip):
    result = run(clip, clip, "--model", model_folder)
    text = expected_text(model_folder, clip)
    assert result.stdout == f"{clip}: {text}\n" * 2


def test_transcribe_json_has_words_with_times(model_folder, clip):
    result = run(clip, clip, "--model", model_folder, "--json")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == second
    assert set(first) == {"file", "text", "words", "duration_s"}
    assert (first["file"], first["duration_s"]) == (str(clip), 3.0)
    assert first["text"] == " ".join(word["text"] for word in first["words"]) == expected_text(model_folder, clip)
    assert all(0 <= word["start_s"] < word["end_s"] <= 3.0 for word in first["words"])


def test_transcribe_chunks_cover_a_long_file(model_folder, tmp_path, waveform):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.tile(waveform, 15), RATE_HZ)
    result = run(path, "--model", model_folder, "--json", "--chunk-s", "5", "--batch-size", "2")
    transcript = json.loads(result.stdout)
    assert transcript["duration_s"] == 45.0
    assert transcript["words"][-1]["end_s"] > 44


def test_transcribe_bad_files_are_named_and_others_done(model_folder, clip, tmp_path):
    empty, text, short = tmp_path / "empty.wav", tmp_path / "text.wav", tmp_path / "short.wav"
    empty.touch()
    text.write_text("no sound here " * 50)
    soundfile.write(short, np.zeros(100, np.float32), RATE_HZ)
    cut = tmp_path / "cut.wav"
    cut.write_bytes(clip.read_bytes()[:50_000])
    nan = tmp_path / "nan.wav"
    soundfile.write(nan, np.full(8_000, np.nan, np.float32), RATE_HZ, subtype="FLOAT")
    missing = tmp_path / "missing.wav"
    result = run(empty, clip, text, short, cut, nan, missing, tmp_path, clip, "--model", model_folder)
    assert result.exit_code == 1
    assert result.stdout == f"{clip}: {expected_text(model_folder, clip)}\n" * 2
    messages = result.stderr.splitlines()
    problems = ["is empty", "is not audio", "lasts 6.2 ms", "truncated", "NaN", "does not exist", "is a folder"]
    for path, problem, message in zip(
        [empty, text, short, cut, nan, missing, tmp_path], problems, messages, strict=True
    ):
        assert message.startswith("hf-speechft: ")
        assert message.count(str(path)) == 1
        assert problem in message


def test_transcribe_without_default_model_says_how_to_make_one(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(clip)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "no model in runs/demo" in result.stderr
    assert "accelerate launch run_finetune.py" in result.stderr


def test_transcribe_default_model_is_the_default_recipes(model_folder, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(model_folder)
    result = run(clip)
    assert result.stdout == expected_text(model_folder, clip) + "\n"


def test_transcribe_chunk_that_does_not_fit_is_refused_once(model_folder, clip):
    result = run(clip, clip, "--model", model_folder, "--chunk-s", "30")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("chunk_s is 30 s") == 1


@pytest.mark.parametrize(("copies", "has_bar"), [(1, False), (25, True)])
def test_with_progress_shows_a_bar_for_long_recordings(tmp_path, waveform, monkeypatch, copies, has_bar):
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.tile(waveform, copies), RATE_HZ)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    blocks = [np.zeros(RATE_HZ)] * 3 * copies
    assert sum(1 for _ in transcribe_module._with_progress(blocks, str(path), RATE_HZ)) == 3 * copies
    assert ("talk.wav:   0% of 75 s" in terminal.shown) == has_bar


def test_transcribe_in_a_process_writes_nothing_else(model_folder, clip):
    """Neither library warnings nor bars appear beside the text."""
    command = [sys.executable, "-m", "hf_speechft.apps.command", "transcribe", str(clip), "--model", str(model_folder)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected_text(model_folder, clip) + "\n"


def test_transcribe_is_a_function_of_its_own(model_folder, clip, capsys):
    with pytest.raises(typer.Exit):
        transcribe_module.transcribe(["missing.wav"], model=str(model_folder))
    transcribe_module.transcribe([str(clip)], model=str(model_folder))
    shown = capsys.readouterr()
    assert shown.out == expected_text(model_folder, clip) + "\n"
    assert shown.err.count("\n") == 1


def save_decoder(model_folder, target, **options):
    """A copy of the model with a decoder beside it."""
    shutil.copytree(model_folder, target)
    processor = SpeechBertProcessor.from_pretrained(target)
    decoder = CTCDecoder.from_processor(processor, **options)
    decoder.save_pretrained(target / "decoder")
    return decoder


def log_probs_of(model_folder, clip):
    model, processor = (
        SpeechBertForCTC.from_pretrained(model_folder),
        SpeechBertProcessor.from_pretrained(model_folder),
    )
    with torch.no_grad():
        logits = model(**processor(audio=load_audio(clip, RATE_HZ), sampling_rate=RATE_HZ)).logits
    return logits.log_softmax(dim=-1)


def test_transcribe_uses_the_decoder_that_lies_beside_the_model(model_folder, clip, tmp_path):
    options = {"hotwords": {"zzz": 300.0}, "token_min_logp": -1000.0, "beam_prune_logp": -1000.0}
    decoder = save_decoder(model_folder, tmp_path / "model", beam_width=6, **options)
    (hypothesis,) = decoder.decode(log_probs_of(model_folder, clip))[0]
    line = json.loads(run(clip, "--model", tmp_path / "model", "--json").stdout)
    assert line["text"] == hypothesis.text != expected_text(model_folder, clip)
    assert [word["confidence"] for word in line["words"]] == pytest.approx(
        [word.confidence for word in hypothesis.words], abs=1e-3
    )
    greedy = run(clip, "--model", tmp_path / "model", "--beams", "1").stdout
    assert greedy == expected_text(model_folder, clip) + "\n"


def test_transcribe_with_phrases_gives_one_of_them_and_a_rejection_score(model_folder, clip, tmp_path):
    (tmp_path / "phrases.txt").write_text("turn on\n\nturn off\n")
    line = json.loads(run(clip, "--model", model_folder, "--phrases", tmp_path / "phrases.txt", "--json").stdout)
    assert line["text"] in ("turn on", "turn off")
    assert line["rejection_score"] > 0
    (tmp_path / "home.jsgf").write_text("#JSGF V1.0; grammar home; public <a> = turn (on | off);")
    line = json.loads(run(clip, "--model", model_folder, "--phrases", tmp_path / "home.jsgf", "--json").stdout)
    assert line["text"] in ("turn on", "turn off")


@pytest.mark.parametrize(("ending", "first"), [("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n")])
def test_transcribe_writes_subtitles(model_folder, clip, tmp_path, ending, first):
    assert run(clip, "--model", model_folder, "--format", ending).stdout.startswith(first)
    other = tmp_path / "other.wav"
    other.write_bytes(clip.read_bytes())
    result = run(clip, other, "--model", model_folder, "--format", ending, "--output-dir", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"clip.{ending}", f"other.{ending}"]
    assert run(clip, other, "--model", model_folder, "--format", ending).exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hotword", "日本"], "hot word '日本' cannot be written"),
        (["--phrases", "missing.txt"], "missing.txt cannot be read"),
    ],
)
def test_transcribe_unusable_words_are_one_line_of_error(model_folder, clip, options, message):
    result = run(clip, "--model", model_folder, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_transcribe_hot_words_match_a_decoder_with_them(model_folder, clip):
    processor = SpeechBertProcessor.from_pretrained(model_folder)
    log_probs = log_probs_of(model_folder, clip)
    texts = []
    for weight in (0.1, 60.0):
        decoder = CTCDecoder.from_processor(processor, beam_width=16, hotwords={"n": weight, "te": 5.0})
        result = run(clip, "--model", model_folder, "--beams", 16, "--hotword", f"n:{weight}", "--hotword", "te")
        texts.append(result.stdout)
        assert result.stdout == decoder.decode(log_probs)[0][0].text + "\n"
    assert texts[0].split().count("n") < texts[1].split().count("n")


def test_transcribe_phrases_long_recording_is_refused_and_others_done(model_folder, clip, tmp_path, waveform):
    (tmp_path / "phrases.txt").write_text("stop\n")
    soundfile.write(tmp_path / "long.flac", np.tile(waveform, 15), RATE_HZ)
    result = run(tmp_path / "long.flac", clip, "--model", model_folder, "--phrases", tmp_path / "phrases.txt")
    assert (result.exit_code, result.stdout) == (1, f"{clip}: stop\n")
    assert result.stderr.startswith(f"hf-speechft: {tmp_path}/long.flac: the recording is longer than 30 s")
    assert result.stderr.count("\n") == 1


def test_transcribe_too_short_for_any_phrase_has_no_rejection_score(model_folder, tmp_path, waveform):
    (tmp_path / "phrases.txt").write_text("turn on the light in the garage\n")
    soundfile.write(tmp_path / "short.wav", waveform[:1600], RATE_HZ)
    options = ["--model", model_folder, "--phrases", tmp_path / "phrases.txt", "--format", "json"]
    line = json.loads(run(tmp_path / "short.wav", *options).stdout)
    assert (line["text"], line["rejection_score"]) == ("", None)


def test_transcribe_phrases_file_without_sentences_is_refused(model_folder, clip, tmp_path):
    (tmp_path / "phrases.txt").write_text("\n \n")
    result = run(clip, "--model", model_folder, "--phrases", tmp_path / "phrases.txt")
    assert (result.exit_code, result.stderr.count("has no sentences; write one a line")) == (1, 1)


def test_transcribe_json_and_another_format_exit_with_2(model_folder, clip):
    result = run(clip, "--model", model_folder, "--json", "--format", "srt")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "exclude each other" in " ".join(result.stderr.split())
