"""What a room, a microphone and a telephone line do to speech: functions on mono float32 waveforms `(samples,)`.

What is random is drawn from the numpy generator that is passed in. Only numpy is used: a Fourier transform over a clip
of seconds is fast, exact in its band edges and shifts nothing in time, as a chain of recursive filters would.
"""

import numpy as np

TELEPHONE_BAND_HZ = (300.0, 3400.0)
_BAND_EDGE = 0.1  # each edge falls from 1 to 0 within this share of its frequency
_DECAY_DB = 60.0  # what RT60 means


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise that is `snr_db` below the waveform, in power over the whole clip.

    Args:
        waveform: `(samples,)`.
        noise: Of any loudness; repeated or cut to the waveform's length.
        snr_db: Signal-to-noise ratio; below 0 the noise is the louder one.

    Returns:
        float32 `(samples,)`, which may exceed full scale. The waveform itself where it or the noise is silent.
    """
    noise = np.resize(noise, waveform.shape)
    speech_power, noise_power = _power(waveform), _power(noise)
    if not speech_power or not noise_power:
        return waveform
    factor = np.sqrt(speech_power / noise_power) * decibels(-snr_db)
    return (waveform + np.float32(factor) * noise).astype(np.float32)


def reverberate(waveform: np.ndarray, room_response: np.ndarray) -> np.ndarray:
    """Put a waveform into a room: convolve it with the room's impulse response.

    The direct path, the response's highest peak, stays where it was in time, and the power stays the same.

    Args:
        waveform: `(samples,)`.
        room_response: Impulse response `(response samples,)` at the same rate.

    Returns:
        float32 `(samples,)`; what sounds on behind the clip's end is cut off.

    Raises:
        ValueError: The response is silent.

    Source: Ko et al., "A study on data augmentation of reverberant speech for robust speech recognition", ICASSP 2017,
    section 3; Kaldi `wav-reverberate --shift-output --normalize-output`.
    """
    if not room_response.any():
        raise ValueError("the room response is silent; remove its file from the folder")
    transform_samples = _transform_length(len(waveform) + len(room_response) - 1)
    spectrum = np.fft.rfft(waveform, transform_samples) * np.fft.rfft(room_response, transform_samples)
    direct = int(np.abs(room_response).argmax())
    wet = np.fft.irfft(spectrum, transform_samples)[direct : direct + len(waveform)]
    wet_power = _power(wet)
    factor = np.sqrt(_power(waveform) / wet_power) if wet_power else 0.0
    return (wet * factor).astype(np.float32)


def synthetic_room_response(
    rt60_s: float, sampling_rate_hz: int, generator: np.random.Generator, *, direct_db: float = 0.0
) -> np.ndarray:
    """Make a room's impulse response: the direct path, then noise that decays exponentially.

    `h(t) = w(t) 10^(-3 t / rt60)` with white Gaussian `w`: Polack's statistical model of the late reverberation.

    Args:
        rt60_s: Seconds in which the sound decays by 60 dB.
        sampling_rate_hz: Rate of the response.
        generator: Draws the noise.
        direct_db: Power of the direct path relative to that of all that follows.

    Returns:
        float32 `(rt60_s * sampling_rate_hz,)`; its first sample is the direct path, and 1.

    Raises:
        ValueError: `rt60_s` is shorter than two samples.

    Source: Polack, "La transmission de l'énergie sonore dans les salles", 1988, as in Naylor and Gaubitch (eds.),
    "Speech Dereverberation", 2010, section 2.2.
    """
    samples = round(rt60_s * sampling_rate_hz) if np.isfinite(rt60_s) else 0
    if samples < 2:
        raise ValueError(f"rt60_s is {rt60_s} s, less than two samples at {sampling_rate_hz} Hz; use 0.1 to 2 s")
    response = generator.standard_normal(samples, dtype=np.float32)
    response *= decibels(-_DECAY_DB * np.arange(samples) / samples).astype(np.float32)
    response[0] = 0.0
    response *= np.float32(decibels(-direct_db) / np.sqrt(np.sum(np.square(response, dtype=np.float64))))
    response[0] = 1.0
    # A single late sample above the direct path would be taken for it.
    return np.clip(response, -0.99, 1.0)


def change_gain(waveform: np.ndarray, gain_db: float) -> np.ndarray:
    """Make a waveform louder, or softer where `gain_db` is below 0; nothing is clipped."""
    return (waveform * np.float32(decibels(gain_db))).astype(np.float32)


def telephone_band(waveform: np.ndarray, sampling_rate_hz: int) -> np.ndarray:
    """Keep what a telephone line passes: 300 to 3400 Hz.

    Args:
        waveform: `(samples,)`.
        sampling_rate_hz: Its rate, and that of the result.

    Returns:
        float32 `(samples,)`. Outside the band the gain falls in a straight line, to 0 at 270 and at 3740 Hz.

    Source: the nominal band of ITU-T G.712 (2001), section 7.
    """
    transform_samples = _transform_length(len(waveform))
    frequencies_hz = np.fft.rfftfreq(transform_samples, 1 / sampling_rate_hz)
    low_hz, high_hz = TELEPHONE_BAND_HZ
    edges_hz = [low_hz * (1 - _BAND_EDGE), low_hz, high_hz, high_hz * (1 + _BAND_EDGE)]
    gains = np.interp(frequencies_hz, edges_hz, [0.0, 1.0, 1.0, 0.0]).astype(np.float32)
    spectrum = np.fft.rfft(waveform, transform_samples) * gains
    return np.fft.irfft(spectrum, transform_samples)[: len(waveform)].astype(np.float32)


def decibels(level_db: float | np.ndarray) -> float | np.ndarray:
    """Factor of the amplitude that so many dB are.

    >>> round(decibels(20.0), 6), round(decibels(-6.0), 3)
    (10.0, 0.501)
    """
    return 10.0 ** (level_db / 20)


def _power(waveform: np.ndarray) -> float:
    return float(np.mean(np.square(waveform, dtype=np.float64))) if waveform.size else 0.0


def _transform_length(samples: int) -> int:
    """Smallest length of at least so many samples that is fast to transform: 8, 9, 10, 12 or 15 times a power of 2."""
    power = 1 << max(0, samples.bit_length() - 4)
    return min(factor * power for factor in (8, 9, 10, 12, 15, 16) if factor * power >= samples)
