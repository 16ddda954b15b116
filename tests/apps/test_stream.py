"""`hf-speechft stream`: text from files and pipes as `transcribe` gives it, and what a user can get wrong."""

import signal

import numpy as np
import pytest
from transformers import GPT2Config
from typer.testing import CliRunner

from hf_speechft import SpeechBertForCTC, SpeechBertProcessor
from hf_speechft.apps import stream as stream_module
from hf_speechft.apps.command import app
from hf_speechft.data.audio import load_audio
from hf_speechft.decoding import StreamingRecognizer
from tests.random_recogniser import make_recogniser

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def causal_folder(tmp_path_factory):
    """A saved causal model with random weights that hears many different units."""
    folder = tmp_path_factory.mktemp("causal")
    backbone = GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=100, bos_token_id=0, eos_token_id=0)
    for part in make_recogniser(folder, backbone, normalize="running"):
        part.save_pretrained(folder)
    return folder


def run(*arguments, sound=None):
    return CliRunner().invoke(app, ["stream", *map(str, arguments)], input=sound, prog_name="hf-speechft")


def whole_text(folder, waveform):
    processor = SpeechBertProcessor.from_pretrained(folder)
    inputs = processor(audio=waveform, sampling_rate=RATE_HZ)
    return processor.batch_decode(SpeechBertForCTC.from_pretrained(folder).generate(**inputs))[0]


def test_stream_of_a_file_writes_the_text_of_the_whole(causal_folder, clip):
    expected = whole_text(causal_folder, load_audio(clip, RATE_HZ))
    assert len(expected) > 10
    for piece_ms in (20, 80, 1_000):
        result = run(clip, "--model", causal_folder, "--piece-ms", piece_ms, "--device", "cpu")
        assert (result.exit_code, result.stdout, result.stderr) == (0, expected + "\n", "")


def test_stream_of_standard_input_writes_the_text_of_the_whole(causal_folder, waveform):
    pcm = (waveform * 32_767).astype("<i2")
    result = run("-", "--model", causal_folder, sound=pcm.tobytes() + b"\0")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == whole_text(causal_folder, pcm) + "\n"
    assert run("-", "--model", causal_folder, sound=b"").stdout == "\n"


def test_stream_of_standard_input_writes_what_was_said_before_an_interrupt(causal_folder, waveform, monkeypatch):
    pcm = (waveform * 32_767).astype("<i2")
    half = len(pcm) // 2 // 1_280 * 1_280

    class Microphone:
        """Gives half of the sound, and more and more silence after Ctrl-C."""

        heard = 0

        def read(self, size):
            self.heard += size // 2
            if self.heard == half:
                signal.raise_signal(signal.SIGINT)
            return pcm[self.heard - size // 2 : self.heard].tobytes() if self.heard <= half else bytes(size)

    monkeypatch.setattr(stream_module.typer, "get_binary_stream", lambda name: Microphone())
    before = signal.getsignal(signal.SIGINT)
    result = run("-", "--model", causal_folder)
    assert (result.exit_code, result.stdout) == (0, whole_text(causal_folder, pcm[:half]) + "\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_stream_writes_each_text_before_it_reads_on(causal_folder, waveform, monkeypatch, capsys):
    processor = SpeechBertProcessor.from_pretrained(causal_folder)
    model = SpeechBertForCTC.from_pretrained(causal_folder)
    recognizer, expected, written = StreamingRecognizer(model, processor, sampling_rate=RATE_HZ), "", []

    def pieces(*_):
        for piece in np.split(waveform, 10):
            yield piece
            written.append(capsys.readouterr().out)

    monkeypatch.setattr(stream_module, "_read", pieces)
    stream_module.stream("a.wav", str(causal_folder), restart_s=15.0)
    expected = [recognizer.accept(piece) for piece in np.split(waveform, 10)]
    assert written == expected
    assert all(expected[:5])


def test_stream_shows_what_is_wrong(causal_folder, model_folder, clip, tmp_path, waveform):
    for arguments, sound, message in [
        ((clip, "--model", model_folder), None, "attention is bidirectional: each step hears the whole utterance"),
        ((tmp_path / "no.wav", "--model", causal_folder), None, "no.wav"),
        (("-", "--model", causal_folder, "--rate", "8000"), b"", "has 8000 Hz and the model needs 16000 Hz; resample"),
        ((clip, "--model", tmp_path / "none"), None, "none"),
    ]:
        result = run(*arguments, sound=sound)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("hf-speechft: ")
        assert message in result.stderr
    pcm = np.tile((waveform * 32_767).astype("<i2"), 2)
    result = run("-", "--model", causal_folder, sound=pcm.tobytes())
    assert result.exit_code == 1
    assert "positions for 100 (4.0 s)" in result.stderr
    assert len(result.stdout) > 10
    assert result.stdout.endswith("\n")


def test_stream_rate_of_a_file_is_a_usage_error(causal_folder, clip):
    result = run(clip, "--model", causal_folder, "--rate", "8000")
    assert result.exit_code == 2
    assert "--rate is that of PCM on standard input" in " ".join(result.stderr.replace("│", " ").split())
