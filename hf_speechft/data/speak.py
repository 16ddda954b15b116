"""Text to speech with espeak-ng, called through ctypes: the voice of the built-in demo corpus.

The pip package `espeakng-loader` carries the espeak-ng library and its voices, so speech costs no download.
Unusual here: espeak-ng keeps state in static variables (flutter phase, noise seed, wave phase) that no function of it
resets, so the same sentence sounds slightly different after another one. Each utterance therefore loads the library
anew, from a private copy that nothing else in the process can hold open; the same call gives the same samples in any
order and in any process. Variants with breath (f2, whisper) take noise from a generator of espeak-ng's own, which it
seeds with the clock when it starts; those of the Klatt kind take it from the C library's rand(), which differs between
systems. Both are seeded here before each utterance.
A voice name is a language and an optional variant, such as "en-us" or "en-us+f3".

Source: espeak-ng 1.52, `src/include/espeak-ng/speak_lib.h`.
"""

import _ctypes
import ctypes
import difflib
import functools
import os
import shutil
import tempfile
import threading
from pathlib import Path
from types import ModuleType, TracebackType

import numpy as np
import soxr

ESPEAK_RATE_HZ = 22050
WORDS_PER_MINUTE_RANGE = (80, 450)
PITCH_RANGE = (0, 99)

# Constants of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
# What espeak-ng reads for English besides the voice's own two files.
_ENGLISH_DATA = ("phontab", "phonindex", "phondata", "intonations", "en_dict")
_one_at_a_time = threading.Lock()


def speak(
    text: str,
    voice: str = "en-us",
    *,
    words_per_minute: int = 140,
    pitch: int = 50,
    sampling_rate_hz: int = 16000,
) -> np.ndarray:
    """Speaks a text with an espeak-ng voice.

    Args:
        text: What to say, in the language of the voice.
        voice: Language and optional variant, for example "en-us", "en+f3" (British) or "de".
        words_per_minute: Speed, 80 to 450; 140 is a calm speaker.
        pitch: 0 (low) to 99 (high); 50 is the voice's own pitch.
        sampling_rate_hz: Rate of the result.

    Returns:
        Mono float32 waveform `(samples,)` in [-1, 1].

    Raises:
        ImportError: espeakng-loader is not installed.
        ValueError: The text has nothing to say, the voice is unknown, or a number is out of range.
        RuntimeError: espeak-ng reported a failure; the message has its code.

    >>> speak("turn on the kitchen lights", "en-us+f3").dtype
    dtype('float32')
    """
    if sampling_rate_hz <= 0:
        raise ValueError(f"sampling_rate_hz is {sampling_rate_hz}; it must be positive, for example 16000")
    with Speaker() as speaker:
        samples = speaker.synthesize(text, voice, words_per_minute=words_per_minute, pitch=pitch)
    waveform = soxr.resample(samples.astype(np.float64) / 32768, ESPEAK_RATE_HZ, sampling_rate_hz, quality="VHQ")
    return np.clip(waveform, -1.0, 1.0).astype(np.float32)  # (samples,); the resampler may overshoot full scale


def list_variants() -> list[str]:
    """Names of the voice variants that can follow a language's "+", sorted.

    Raises:
        ImportError: espeakng-loader is not installed.
    """
    return sorted(entry.name for entry in (_data_folder() / "voices" / "!v").iterdir())


class Speaker:
    """A private espeak-ng for many utterances; use it as a context manager.

    It holds a temporary folder with a copy of the library and, for each voice used, links to the few data files which
    that voice needs: espeak-ng reads all voice files it finds whenever it starts, and it starts for each utterance.

    Raises:
        ImportError: espeakng-loader is not installed.
    """

    def __init__(self) -> None:
        loader = _import_loader()
        self._data = _data_folder()
        self._folder = Path(tempfile.mkdtemp(prefix="hf_speechft_espeak_"))
        self._library_path = self._folder / Path(loader.get_library_path()).name
        shutil.copyfile(loader.get_library_path(), self._library_path)
        self._voice_data: dict[str, Path] = {}

    def __enter__(self) -> "Speaker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes the temporary folder; the speaker cannot be used afterwards."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def synthesize(self, text: str, voice: str, *, words_per_minute: int = 140, pitch: int = 50) -> np.ndarray:
        """Speaks a text at espeak-ng's own rate; the samples depend on the arguments only.

        Args:
            text: What to say.
            voice: Language and optional variant, for example "en-us+f3".
            words_per_minute: Speed, 80 to 450.
            pitch: 0 (low) to 99 (high).

        Returns:
            Mono int16 waveform `(samples,)` at 22,050 Hz.

        Raises:
            ValueError: The text has nothing to say, the voice is unknown, or a number is out of range.
            RuntimeError: espeak-ng reported a failure; the message has its code.
        """
        _check_range("words_per_minute", words_per_minute, WORDS_PER_MINUTE_RANGE)
        _check_range("pitch", pitch, PITCH_RANGE)
        if "\0" in text:
            raise ValueError("the text contains a NUL character, where espeak-ng would stop; remove it")
        if voice not in self._voice_data:
            _check_variant(voice)
            self._voice_data[voice] = self._link_voice_data(voice)
        with _one_at_a_time:
            chunks = self._run(text, voice, words_per_minute, pitch)
        samples = np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int16)
        if not samples.any():
            raise ValueError(f"voice {voice!r} finds nothing to say in the text {text!r}; give it words or numbers")
        return samples

    def _run(self, text: str, voice: str, words_per_minute: int, pitch: int) -> list[np.ndarray]:
        """Loads the library, speaks, and unloads it again, which is what resets its static variables."""
        chunks: list[np.ndarray] = []

        def collect(samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: int | None) -> int:
            if samples and count > 0:
                chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0  # go on

        callback = _CALLBACK(collect)
        encoded = text.encode("utf-8") + b"\0"
        library = ctypes.CDLL(str(self._library_path))
        try:
            folder = os.fsencode(self._voice_data[voice])
            rate_hz = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, folder, _INITIALIZE_DONT_EXIT)
            if rate_hz != ESPEAK_RATE_HZ:
                raise RuntimeError(
                    f"espeak-ng did not start: espeak_Initialize gave {rate_hz} instead of {ESPEAK_RATE_HZ} Hz with"
                    f" the data in {self._data}; reinstall espeakng-loader"
                )
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            _seed_c_noise()
            library.espeak_SetSynthCallback(callback)
            if code := library.espeak_SetVoiceByName(voice.encode("utf-8")):
                raise ValueError(f"espeak-ng knows no voice {voice!r} (code {code}); give a language such as 'en-us'")
            _check_code("espeak_SetParameter(rate)", library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0))
            _check_code("espeak_SetParameter(pitch)", library.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0))
            size = ctypes.c_size_t(len(encoded))
            code = library.espeak_Synth(encoded, size, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
            _check_code("espeak_Synth", code)
        finally:
            library.espeak_Terminate()
            _unload(library)
        return chunks

    def _link_voice_data(self, voice: str) -> Path:
        """Gives a data folder with the files of one English voice only, or the whole one where that can't be had."""
        language, _, variant = voice.partition("+")
        # Other languages are not narrowed: within a sentence they may switch to any language's dictionary.
        language_file = _find_language_file(self._data, language) if language.split("-")[0] == "en" else None
        if language_file is None:
            return self._data
        folder = self._folder / f"voice{len(self._voice_data)}"
        wanted = [*(self._data / name for name in _ENGLISH_DATA), language_file]
        if variant:
            wanted.append(self._data / "voices" / "!v" / variant)
        try:
            (folder / "voices" / "!v").mkdir(parents=True)
            for source in wanted:
                link = folder / source.relative_to(self._data)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source)
        except OSError:  # Windows lets only some users make links; the whole folder gives the same sound, slower.
            return self._data
        return folder


def _import_loader() -> ModuleType:
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError(
            "speaking text needs the package espeakng-loader, which is not installed; run: pip install"
            ' "hf_speechft[demo]"'
        ) from error
    return espeakng_loader


def _data_folder() -> Path:
    return Path(_import_loader().get_data_path()).resolve()


@functools.cache
def _find_language_file(data: Path, language: str) -> Path | None:
    """Finds the file whose name is a language code, in any case: "en-us" is in `lang/gmw/en-US`."""
    return next((path for path in sorted((data / "lang").glob("*/*")) if path.name.lower() == language.lower()), None)


def _check_variant(voice: str) -> None:
    """Refuses an unknown variant: espeak-ng would take the plain language instead and say nothing."""
    _, plus, variant = voice.partition("+")
    if plus and variant not in (known := list_variants()):
        close = difflib.get_close_matches(variant, known, n=3) or known[:5]
        raise ValueError(f"voice {voice!r} has an unknown variant {variant!r}; names like it are {', '.join(close)}")


def _check_range(name: str, value: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; espeak-ng takes {low} to {high}")


def _check_code(call: str, code: int) -> None:
    if code:
        raise RuntimeError(f"espeak-ng failed: {call} returned code {code}")


def _seed_c_noise() -> None:
    if os.name != "nt":  # ctypes finds no process-wide rand() on Windows
        ctypes.CDLL(None).srand(1)


def _unload(library: ctypes.CDLL) -> None:
    if os.name == "nt":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)
