"""`hf-speechft transcribe`: formats, output, and every mistake a user can make with files and models."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer
from transformers import BertConfig, Wav2Vec2Config
from transformers.utils import logging
from typer.testing import CliRunner

from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)
from hf_speechft.apps import transcribe as transcribe_module
from hf_speechft.apps.command import app
from hf_speechft.apps.transcribe import ModelError, load_model
from hf_speechft.data.audio import load_audio

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyzäß"]


def run(*arguments):
    return CliRunner().invoke(app, ["transcribe", *map(str, arguments)], prog_name="hf-speechft")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A saved model with random weights that hears many different units."""
    folder = tmp_path_factory.mktemp("model")
    vocab_file = folder / "vocab.json"
    vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}), encoding="utf-8")
    torch.manual_seed(0)
    backbone = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = SpeechBertForCTC(SpeechBertConfig(backbone_config=backbone, vocab_size=len(UNITS)))
    with torch.no_grad():
        model.head.weight.normal_()
        model.head.bias[1] = -1000.0  # never <unk>
    model.save_pretrained(folder)
    SpeechBertProcessor(SpeechBertFeatureExtractor(), SpeechBertTokenizer(str(vocab_file))).save_pretrained(folder)
    return folder


@pytest.fixture
def clip(tmp_path, waveform):
    path = tmp_path / "clip.wav"
    soundfile.write(path, waveform, RATE_HZ)
    return path


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


def damage(folder, target, name, content):
    """Copy a model's folder with one file missing or replaced."""
    target.mkdir()
    for path in folder.iterdir():
        if path.name != name and path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    if content is not None:
        (target / name).write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "is a folder without a model"),
        ("config.json", b"{ not json", "config.json cannot be read"),
        ("config.json", b"{}", "type unknown, not a SpeechBERT model"),
        ("model.safetensors", None, "incomplete or damaged"),
        ("model.safetensors", b"cut off", "incomplete or damaged"),
        ("vocab.json", None, "incomplete or damaged"),
        ("processor_config.json", None, "incomplete or damaged"),
    ],
)
def test_load_model_damaged_folder_raises(model_folder, tmp_path, name, content, message):
    folder = damage(model_folder, tmp_path / "damaged", name, content)
    with pytest.raises(ModelError, match=message) as error_info:
        load_model(str(folder))
    assert "\n" not in str(error_info.value)


def test_load_model_missing_weights_raise(model_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = damage(model_folder, tmp_path / "partial", "model.safetensors", None)
    weights = load_file(model_folder / "model.safetensors")
    del weights["head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of its model, such as head\.weight"):
        load_model(str(folder))


def test_load_model_other_architecture_raises(tmp_path):
    Wav2Vec2Config().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a model of type wav2vec2, not a SpeechBERT model"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nothing", "./nothing does not exist"),
        ("/nothing/here", "/nothing/here does not exist"),
        ("a/b/c", "a/b/c does not exist"),
        ("nobody/nothing", "neither a folder nor a model that the Hub gives out"),
        ("not an id", "neither a folder nor a model that the Hub gives out"),
    ],
)
def test_load_model_unknown_name_raises(name, message):
    with pytest.raises(ModelError, match=message):
        load_model(name)


def test_load_model_file_raises(clip):
    with pytest.raises(ModelError, match="is a file"):
        load_model(str(clip))


def test_load_model_unusable_device_raises(model_folder):
    with pytest.raises(ModelError, match="device 'tape' is unknown"):
        load_model(str(model_folder), "tape")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device cuda is not usable here"):
            load_model(str(model_folder), "cuda")


def test_load_model_leaves_logging_as_it_was(model_folder):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    model, _ = load_model(str(model_folder))
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert not model.training


class Terminal:
    """Takes what is written, as a terminal does."""

    def __init__(self):
        self.shown = ""

    def write(self, text):
        self.shown += text

    def flush(self):
        pass

    def isatty(self):
        return True


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
