import ctypes
import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="the demo extra (espeakng-loader) is not installed")

from hf_speechft.data import speak as speak_module
from hf_speechft.data.speak import ESPEAK_RATE_HZ, Speaker, list_variants, speak

ROOT = Path(__file__).parents[2]
SENTENCE = "turn on the kitchen lights"


def fundamental_hz(waveform: np.ndarray, rate_hz: int) -> float:
    """Median over loud 40 ms windows of the autocorrelation's highest peak between 60 and 400 Hz."""
    window = int(0.04 * rate_hz)
    found = []
    for start in range(0, len(waveform) - window, window):
        part = waveform[start : start + window].astype(np.float64)
        if np.sqrt(np.mean(part**2)) < 0.5 * np.sqrt(np.mean(waveform.astype(np.float64) ** 2)):
            continue
        correlation = np.correlate(part, part, "full")[window - 1 :]
        low, high = rate_hz // 400, rate_hz // 60
        found.append(rate_hz / (low + int(np.argmax(correlation[low:high]))))
    return float(np.median(found))


@pytest.fixture
def speaker():
    with Speaker() as opened:
        yield opened


def test_speak_text_gives_float_waveform_at_the_asked_rate():
    at_16k = speak(SENTENCE, "en-us+f3")
    at_8k = speak(SENTENCE, "en-us+f3", sampling_rate_hz=8000)
    assert at_16k.dtype == np.float32
    assert at_16k.ndim == 1
    assert 1.0 < len(at_16k) / 16000 < 3.0
    assert len(at_8k) == pytest.approx(len(at_16k) / 2, abs=1)
    assert 0.1 < np.abs(at_16k).max() <= 1.0


def test_speak_other_language_speaks():
    assert len(speak("guten morgen", "de")) > 8000


def test_synthesize_faster_speech_is_shorter(speaker):
    lengths = [len(speaker.synthesize(SENTENCE, "en-us", words_per_minute=speed)) for speed in (100, 150, 200)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 1.4 * lengths[2]


def test_synthesize_pitch_and_variant_change_the_fundamental(speaker):
    low, middle, high = (
        fundamental_hz(speaker.synthesize(SENTENCE, "en-us+m3", pitch=pitch), ESPEAK_RATE_HZ) for pitch in (20, 50, 80)
    )
    woman = fundamental_hz(speaker.synthesize(SENTENCE, "en-us+f3"), ESPEAK_RATE_HZ)
    assert low < middle < high
    assert woman > 1.4 * middle


@pytest.mark.parametrize("voice", ["en-us", "en-us+f3", "en+grandpa", "en-us+klatt2"])
def test_synthesize_after_other_utterances_is_identical(speaker, voice):
    first = speaker.synthesize(SENTENCE, voice)
    speaker.synthesize("set a timer for ten minutes", "en-us+f5", words_per_minute=220, pitch=80)
    speaker.synthesize("play music", voice)
    np.testing.assert_array_equal(speaker.synthesize(SENTENCE, voice), first)


def test_synthesize_with_breath_in_another_second_is_identical(speaker):
    first = speaker.synthesize(SENTENCE, "en-us+f3")
    time.sleep(1.1)  # espeak-ng seeds the noise of breath with the clock's seconds
    np.testing.assert_array_equal(speaker.synthesize(SENTENCE, "en-us+f3"), first)


def test_synthesize_in_another_process_is_identical(speaker):
    program = (
        "import hashlib; from hf_speechft.data.speak import Speaker\n"
        "with Speaker() as speaker:\n"
        "    speaker.synthesize('play music', 'en+m2')\n"
        f"    samples = speaker.synthesize({SENTENCE!r}, 'en-us+f2')\n"
        "print(hashlib.sha256(samples.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    here = hashlib.sha256(speaker.synthesize(SENTENCE, "en-us+f2").tobytes()).hexdigest()
    assert other.stdout.strip() == here


def test_synthesize_while_espeak_is_open_elsewhere_is_identical(speaker):
    import espeakng_loader

    first = speaker.synthesize(SENTENCE, "en-us+f3")
    elsewhere = ctypes.CDLL(espeakng_loader.get_library_path())
    assert elsewhere.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0x8000) == ESPEAK_RATE_HZ
    np.testing.assert_array_equal(speaker.synthesize(SENTENCE, "en-us+f3"), first)
    elsewhere.espeak_Terminate()


def test_synthesize_from_threads_is_identical(speaker):
    voices = ["en-us+f3", "en-us+m3", "en+f1", "en+m7"]
    expected = [speaker.synthesize(SENTENCE, voice) for voice in voices]
    found = {}
    threads = [
        threading.Thread(target=lambda name=voice: found.update({name: speaker.synthesize(SENTENCE, name)}))
        for voice in voices
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for voice, samples in zip(voices, expected, strict=True):
        np.testing.assert_array_equal(found[voice], samples)


@pytest.mark.parametrize("voice", ["en-us+Alex", "en", "en-gb-scotland+f2", "en-029+f1"])
def test_synthesize_with_linked_data_matches_the_whole_data_folder(speaker, monkeypatch, voice):
    linked = speaker.synthesize(SENTENCE, voice)
    assert speaker._voice_data[voice] != speaker._data
    with Speaker() as other:
        monkeypatch.setattr(other, "_link_voice_data", lambda voice: other._data)
        np.testing.assert_array_equal(other.synthesize(SENTENCE, voice), linked)


def test_synthesize_where_links_are_refused_uses_the_whole_data_folder(speaker, monkeypatch):
    expected = speaker.synthesize(SENTENCE, "en-us+f3")

    def refuse(self: Path, target: Path) -> None:
        raise OSError("no privilege to make links")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with Speaker() as other:
        np.testing.assert_array_equal(other.synthesize(SENTENCE, "en-us+f3"), expected)


def test_close_removes_the_temporary_folder():
    with Speaker() as opened:
        folder = opened._folder
        opened.synthesize("yes", "en-us+f3")
        assert folder.is_dir()
    assert not folder.exists()


def test_list_variants_has_known_names():
    assert {"f3", "m3", "Alex", "whisper"} <= set(list_variants())


@pytest.mark.parametrize("text", ["", "   ", "..."])
def test_synthesize_empty_text_raises(speaker, text):
    with pytest.raises(ValueError, match="finds nothing to say"):
        speaker.synthesize(text, "en-us")


def test_synthesize_nul_character_raises(speaker):
    with pytest.raises(ValueError, match="NUL"):
        speaker.synthesize("turn on\0the lights", "en-us")


def test_synthesize_unknown_language_raises(speaker):
    with pytest.raises(ValueError, match=r"knows no voice 'xx-klingon' \(code"):
        speaker.synthesize("hello", "xx-klingon")


def test_synthesize_unknown_variant_raises_with_close_names(speaker):
    with pytest.raises(ValueError, match=r"unknown variant 'Alexx'; names like it are Alex"):
        speaker.synthesize("hello", "en-us+Alexx")


@pytest.mark.parametrize(("name", "value"), [("words_per_minute", 10), ("words_per_minute", 900), ("pitch", 100)])
def test_synthesize_number_out_of_range_raises(speaker, name, value):
    with pytest.raises(ValueError, match=rf"{name} is {value}; espeak-ng takes \d+ to \d+"):
        speaker.synthesize("hello", "en-us", **{name: value})


def test_speak_rate_of_zero_raises():
    with pytest.raises(ValueError, match="sampling_rate_hz is 0"):
        speak("hello", sampling_rate_hz=0)


def test_synthesize_failing_call_raises_with_its_code(speaker, monkeypatch):
    class FailingLibrary:
        def __init__(self, path: str) -> None:
            self._handle = 0

        def __getattr__(self, name: str):
            codes = {"espeak_Initialize": ESPEAK_RATE_HZ, "espeak_Synth": 3}
            return lambda *arguments: codes.get(name, 0)

    monkeypatch.setattr(speak_module.ctypes, "CDLL", FailingLibrary)
    monkeypatch.setattr(speak_module, "_unload", lambda library: None)
    with pytest.raises(RuntimeError, match="espeak_Synth returned code 3"):
        speaker.synthesize("hello", "en-us")


def test_synthesize_damaged_data_raises(speaker, monkeypatch, tmp_path):
    monkeypatch.setattr(speaker, "_link_voice_data", lambda voice: tmp_path)
    with pytest.raises(RuntimeError, match="espeak-ng did not start: espeak_Initialize gave"):
        speaker.synthesize("hello", "en-us")


def test_speak_without_loader_raises_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r'pip install "hf_speechft\[demo\]"'):
        speak("hello")
