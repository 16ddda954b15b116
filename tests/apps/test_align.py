"""`hf-speechft align`: times of a known text, comparison with a reading, and the mistakes a user can make."""

import io
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from transformers import BertConfig
from typer.testing import CliRunner

from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)
from hf_speechft.apps.align import _as_written, _time_map
from hf_speechft.apps.command import app
from hf_speechft.data.audio import load_audio
from hf_speechft.decoding.align import align_words
from hf_speechft.decoding.transcript import TimedWord

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
STEP_S = 0.04
UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz'"]


def run(*arguments):
    return CliRunner().invoke(app, ["align", *map(str, arguments)], prog_name="hf-speechft")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A saved model with random weights, whose text is lower-case and without punctuation."""
    folder = tmp_path_factory.mktemp("model")
    vocab_file = folder / "vocab.json"
    vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}), encoding="utf-8")
    torch.manual_seed(0)
    backbone = BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,  # 5 s
    )
    model = SpeechBertForCTC(SpeechBertConfig(backbone_config=backbone, vocab_size=len(UNITS)))
    with torch.no_grad():
        model.head.weight.normal_()
    model.save_pretrained(folder)
    tokenizer = SpeechBertTokenizer(str(vocab_file), text_normalizer="english")
    SpeechBertProcessor(SpeechBertFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder


def expected_alignment(model_folder, path, text):
    model = SpeechBertForCTC.from_pretrained(model_folder).eval()
    processor = SpeechBertProcessor.from_pretrained(model_folder)
    inputs = processor(audio=load_audio(path, RATE_HZ), sampling_rate=RATE_HZ)
    with torch.inference_mode():
        log_probs = model(**inputs).logits[0].log_softmax(dim=-1)
    return align_words(log_probs, text, processor.tokenizer, STEP_S)


def test_align_text_prints_words_with_times(model_folder, clip):
    result = run(clip, "--text", "Turn on: the LIGHTS!", "--model", model_folder)
    assert (result.exit_code, result.stderr) == (0, "")
    expected = expected_alignment(model_folder, clip, "turn on the lights")
    written = ["Turn", "on:", "the", "LIGHTS!"]
    assert result.stdout.splitlines() == [
        f"{word.start_s:.3f}\t{min(word.end_s, 3.0):.3f}\t{text}"
        for word, text in zip(expected.words, written, strict=True)
    ]


def test_align_chars_prints_characters_with_times(model_folder, clip):
    result = run(clip, "--text", "on it", "--chars", "--model", model_folder)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    expected = expected_alignment(model_folder, clip, "on it").characters
    assert [line[2] for line in lines] == ["o", "n", "i", "t"]
    assert [float(line[0]) for line in lines] == pytest.approx([item.start_s for item in expected])


def test_align_last_word_ends_with_the_recording(model_folder, tmp_path, waveform):
    """297 frames make 75 steps, of which the last reaches 15 ms beyond the last sample."""
    path = tmp_path / "odd.wav"
    soundfile.write(path, waveform[:47_760], RATE_HZ)
    result = run(path, "--text", "ab" * 37 + "a", "--model", model_folder)  # a character in each step
    assert result.stdout == f"0.000\t2.985\t{'ab' * 37}a\n"


def test_align_json_has_words_characters_and_confidences(model_folder, clip, tmp_path):
    text_file = tmp_path / "text.txt"
    text_file.write_bytes("\ufeffIt's\n  five o'clock\n".encode())
    result = run(clip, "--text-file", text_file, "--format", "json", "--chars", "--model", model_folder)
    assert (result.exit_code, result.stderr, result.stdout.count("\n")) == (0, "", 1)
    found = json.loads(result.stdout)
    assert set(found) == {"file", "text", "words", "characters", "duration_s"}
    assert (found["file"], found["text"], found["duration_s"]) == (str(clip), "It's five o'clock", 3.0)
    expected = expected_alignment(model_folder, clip, "it's five o'clock")
    assert [word["confidence"] for word in found["words"]] == [round(word.confidence, 4) for word in expected.words]
    assert "".join(item["text"] for item in found["characters"]) == "it'sfiveo'clock"
    assert all(0 <= item["start_s"] < item["end_s"] <= 3.0 for item in found["words"] + found["characters"])
    assert "characters" not in json.loads(
        run(clip, "--text-file", text_file, "--format", "json", "--model", model_folder).stdout
    )


@pytest.mark.parametrize(("output_format", "name"), [("srt", "srt"), ("vtt", "webvtt")])
def test_align_subtitles_show_the_text_as_written(model_folder, clip, output_format, name):
    text = "“Turn on the lights in the kitchen,” she said — and close the door."
    result = run(clip, "--text", text, "--format", output_format, "--model", model_folder)
    assert result.exit_code == 0, result.stderr
    with av.open(io.BytesIO(result.stdout.encode()), format=name) as file:
        shown = " ".join(bytes(packet).decode().replace("\n", " ").strip() for packet in file.demux() if packet.size)
    assert shown == text


def test_align_recording_longer_than_the_model_takes_is_cut_into_chunks(model_folder, tmp_path, waveform):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.tile(waveform, 4), RATE_HZ)
    result = run(path, "--text", "one two three " * 12, "--model", model_folder)
    assert result.exit_code == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[2] for line in lines] == ["one", "two", "three"] * 12
    times = [float(time) for line in lines for time in line[:2]]
    assert times == sorted(times)
    assert 5.12 < times[-1] <= 12.0


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Five — no: SIX!", ["Five —", "no:", "SIX!"]),
        ("— Well-known…", ["— Well-known…"]),
        ("5 % off", ["5", "%", "off"]),
        ("five ( six )", ["five", "( six )"]),
    ],
)
def test_as_written_gives_words_their_writing_back(text, written):
    from hf_speechft.data.text import normalize_text

    spoken = normalize_text(text, "english").split()
    words = [TimedWord(word, index, index + 0.5, 0.5 + 0.1 * index) for index, word in enumerate(spoken)]
    restored = _as_written(words, text, "english", " ")
    assert [word.text for word in restored] == written
    assert (restored[0].start_s, restored[-1].end_s) == (words[0].start_s, words[-1].end_s)


def test_as_written_joined_words_share_their_confidence():
    words = [TimedWord("well", 0.0, 0.5, 0.5), TimedWord("known", 0.6, 1.0, 0.7)]
    assert _as_written(words, "well-known", "english", " ") == [TimedWord("well-known", 0.0, 1.0, pytest.approx(0.6))]


def test_as_written_text_that_is_not_normalised_word_by_word_stays_normalised():
    words = [TimedWord("a", 0.0, 0.5, 0.5)]
    assert _as_written(words, "a b", "english", " ") is words


def test_as_written_without_word_marks_gives_characters_their_punctuation_back():
    spoken = ["好", "打", "开", "ปิ", "ด", "ทํ", "า"]
    words = [TimedWord(char, index, index + 0.5, 0.5) for index, char in enumerate(spoken)]
    restored = _as_written(words, "「好」，打「开」 ปิด。ทำ（！", "basic", "")
    assert [word.text for word in restored] == ["「好」，", "打", "「开」", "ปิ", "ด。", "ทำ（！"]


def test_align_reference_same_recording_is_the_diagonal(clip):
    result = run(clip, "--reference", clip, "--format", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert (found["file"], found["reference"], found["normalized_distance"]) == (str(clip), str(clip), 0.0)
    assert (found["tempo"], found["duration_s"], found["reference_duration_s"]) == (1.0, 3.0, 3.0)
    assert found["seconds"] == [
        {"reference_s": second, "recording_s": float(second), "tempo": 1.0} for second in range(3)
    ]


def test_align_reference_finds_where_the_recording_is_slower(tmp_path, waveform):
    """Seconds 1 to 2 of the reading are spoken twice as slowly: each 20 ms of them comes twice."""
    slow = waveform[RATE_HZ : 2 * RATE_HZ].reshape(-1, 320).repeat(2, axis=0).ravel()
    recording, reading = tmp_path / "recording.wav", tmp_path / "reading.wav"
    soundfile.write(recording, np.concatenate([waveform[:RATE_HZ], slow, waveform[2 * RATE_HZ :]]), RATE_HZ)
    soundfile.write(reading, waveform, RATE_HZ)
    found = json.loads(run(recording, "--reference", reading, "--format", "json").stdout)
    assert found["tempo"] == 0.75
    assert [second["recording_s"] for second in found["seconds"]] == pytest.approx([0.0, 1.0, 3.0], abs=0.05)
    assert [second["tempo"] for second in found["seconds"]] == pytest.approx([1.0, 0.5, 1.0], abs=0.05)
    lines = run(recording, "--reference", reading).stdout.splitlines()
    assert lines[0] == f"distance {found['normalized_distance']:.3f}"
    assert lines[1] == "tempo 0.75 (recording 4.00 s, reference 3.00 s)"
    assert [line.split()[0] for line in lines[2:]] == ["reference_s", "0", "1", "2"]
    assert lines[4].split()[1:] == [
        f"{found['seconds'][1]['recording_s']:.2f}",
        f"{found['seconds'][1]['tempo']:.2f}",
    ]


def test_align_reference_other_sound_is_farther(clip, tmp_path, waveform):
    louder, other = tmp_path / "louder.wav", tmp_path / "other.wav"
    soundfile.write(louder, 0.3 * waveform, RATE_HZ)
    soundfile.write(other, waveform[::-1], RATE_HZ)
    distances = [
        json.loads(run(clip, "--reference", path, "--format", "json").stdout)["normalized_distance"]
        for path in (louder, other)
    ]
    assert distances[0] < 0.01 < 0.1 < distances[1]


def test_time_map_is_the_mean_of_the_frames_and_has_no_tempo_where_nothing_moves():
    path = np.array([[0, 0], [1, 0], [2, 1], [3, 2], [3, 3], [3, 4], [4, 4], [5, 5]])
    assert _time_map(path, hop_s=0.5, recording_s=3.0, reference_s=2.5) == [
        {"reference_s": 0, "recording_s": 0.25, "tempo": 0.8},
        {"reference_s": 1, "recording_s": 1.5, "tempo": 4.0},
        {"reference_s": 2, "recording_s": 1.75, "tempo": 0.4},
    ]
    still = np.array([[0, 0], [1, 1], [1, 2], [1, 3], [2, 4]])
    assert [second["tempo"] for second in _time_map(still, 0.5, 1.5, 2.5)] == [2.0, 2.0, 1.0]
    still = np.array([[0, 0], [0, 1], [0, 2], [1, 3]])
    assert [second["tempo"] for second in _time_map(still, 0.5, 1.0, 2.0)] == [None, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", " "], "clip.wav: the transcript is empty"),
        (["--text", "—"], "clip.wav: the transcript is empty"),
        (["--text", "drei größere 5"], "clip.wav: the transcript has characters that the model does not know: 5 ß;"),
        (["--text", "much too long " * 10], "clip.wav: the recording has 75 steps but its transcript needs"),
        (["--text-file", "missing.txt"], "missing.txt cannot be read: No such file"),
        (["--text-file", "binary.txt"], "binary.txt is not a text file in UTF-8 (byte 0); save it as UTF-8"),
        (["--reference", "missing.wav"], "missing.wav does not exist"),
        (["--reference", "silence.wav"], "silence.wav has nothing to compare"),
        (["--reference", "frame.wav"], "frame.wav has nothing to compare: it is digital silence or a single frame"),
        (["--reference", "short.wav"], "short.wav: clip 0 lasts 6.2 ms"),
    ],
)
def test_align_bad_input_is_one_line_and_exit_code_1(model_folder, clip, monkeypatch, options, message):
    monkeypatch.chdir(clip.parent)
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    soundfile.write("silence.wav", np.zeros(RATE_HZ), RATE_HZ)
    soundfile.write("frame.wav", np.linspace(0, 0.5, 400), RATE_HZ)
    soundfile.write("short.wav", np.linspace(0, 0.5, 100), RATE_HZ)
    result = run("clip.wav", *options, "--model", model_folder)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("hf-speechft: ")
    assert message in result.stderr


@pytest.mark.parametrize("options", [["--text", "hello", "--model", "./nothing"], ["--reference", "clip.wav"]])
def test_align_missing_recording_or_model_is_named(tmp_path, clip, monkeypatch, options):
    monkeypatch.chdir(clip.parent)
    result = run("missing.wav", *options)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "does not exist" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of --text, --text-file and --reference"),
        (["--text", "a", "--reference", "b.wav"], "give one of"),
        (["--text", "a", "--chars", "--format", "srt"], "--format srt is for words"),
        (["--reference", "b.wav", "--format", "vtt"], "neither for --chars nor for --reference"),
        (["--reference", "b.wav", "--chars"], "--chars is for --text"),
        (["--text", "a", "--format", "textgrid"], "'textgrid' is not one of"),
    ],
)
def test_align_options_that_do_not_go_together_exit_with_2(clip, options, message):
    result = run(clip, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_align_help_does_not_import_torch():
    script = (
        "import sys; from hf_speechft.apps.command import app\n"
        "try:\n    app(['align', '--help'], prog_name='hf-speechft')\nexcept SystemExit:\n    pass\n"
        "sys.exit(int('torch' in sys.modules or 'numba' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "--reference" in done.stdout
