"""Features against torchaudio and librosa, and everything that an extractor is given or refuses."""

import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BatchFeature

from hf_speechft.model import feature_extraction_speechbert as module
from hf_speechft.model import normalization_speechbert as normalization
from hf_speechft.model.feature_extraction_speechbert import FEATURE_TYPES, SpeechBertFeatureExtractor

RATE_HZ = 16000
PARITY = 1e-3
SIZES = [(16000, 80), (16000, 40), (8000, 80), (8000, 23), (11025, 40), (44100, 128)]


def speech_like(duration_s, sampling_rate=RATE_HZ, seed=0):
    """Return a swept harmonic tone with pauses, noise and a DC offset, as float32 in [-1, 1]."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(int(duration_s * sampling_rate)) / sampling_rate
    pitch_hz = 120 + 40 * np.sin(2 * np.pi * 1.3 * time_s + seed)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / sampling_rate
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 20))
    envelope = np.clip(np.sin(2 * np.pi * 1.7 * time_s + seed), 0, None)
    noise = generator.standard_normal(len(time_s))
    return (0.1 * voice * envelope + 0.002 * noise + 0.01).astype(np.float32)


def extract(extractor, clips, **options):
    return extractor(clips, sampling_rate=extractor.sampling_rate, return_tensors="pt", **options)


def librosa_log_mel(clip, extractor):
    librosa = pytest.importorskip("librosa")
    mel = librosa.feature.melspectrogram(
        y=clip,
        sr=extractor.sampling_rate,
        n_fft=extractor.fft_length,
        win_length=extractor.frame_length,
        hop_length=extractor.hop_length,
        n_mels=extractor.feature_size,
    )
    return torch.from_numpy(np.log(mel + 1e-6).T)


# --- Parity with the references


@pytest.mark.parametrize(("sampling_rate", "mels"), SIZES)
def test_fbank_matches_torchaudio_kaldi(sampling_rate, mels):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    clip = speech_like(1.234, sampling_rate)
    features = extract(SpeechBertFeatureExtractor(mels, sampling_rate, normalize=None), clip).input_features[0]
    expected = kaldi.fbank(torch.from_numpy(clip)[None], num_mel_bins=mels, sample_frequency=sampling_rate)
    torch.testing.assert_close(features, expected, atol=PARITY, rtol=0)


def test_fbank_scaled_to_16_bit_range_matches_torchaudio_kaldi():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    clip = speech_like(1.0)
    features = extract(SpeechBertFeatureExtractor(normalize=None, waveform_scale=32768.0), clip).input_features[0]
    expected = kaldi.fbank(torch.from_numpy(clip)[None] * 32768, num_mel_bins=80)
    torch.testing.assert_close(features, expected, atol=PARITY, rtol=0)


@pytest.mark.parametrize("frame_ms", [(20.0, 5.0), (32.0, 16.0), (25.0, 30.0)])
def test_fbank_with_other_frames_matches_torchaudio_kaldi(frame_ms):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    length_ms, shift_ms = frame_ms
    clip = speech_like(1.0)
    extractor = SpeechBertFeatureExtractor(40, frame_length_ms=length_ms, frame_shift_ms=shift_ms, normalize=None)
    expected = kaldi.fbank(torch.from_numpy(clip)[None], num_mel_bins=40, frame_length=length_ms, frame_shift=shift_ms)
    torch.testing.assert_close(extract(extractor, clip).input_features[0], expected, atol=PARITY, rtol=0)


@pytest.mark.parametrize(("sampling_rate", "mels"), SIZES)
@pytest.mark.parametrize("cepstra", [13, 23])
def test_mfcc_matches_torchaudio_kaldi(sampling_rate, mels, cepstra):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    clip = speech_like(1.234, sampling_rate)
    extractor = SpeechBertFeatureExtractor(
        cepstra, sampling_rate, feature_type="mfcc", num_mel_bins=mels, normalize=None
    )
    expected = kaldi.mfcc(
        torch.from_numpy(clip)[None], num_ceps=cepstra, num_mel_bins=mels, sample_frequency=sampling_rate
    )
    torch.testing.assert_close(extract(extractor, clip).input_features[0], expected, atol=PARITY, rtol=0)


def test_mfcc_by_default_uses_kaldis_23_filters():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    clip = speech_like(0.5)
    extractor = SpeechBertFeatureExtractor(13, feature_type="mfcc", normalize=None)
    expected = kaldi.mfcc(torch.from_numpy(clip)[None])
    torch.testing.assert_close(extract(extractor, clip).input_features[0], expected, atol=PARITY, rtol=0)


@pytest.mark.parametrize(("sampling_rate", "mels"), SIZES)
def test_log_mel_matches_librosa(sampling_rate, mels):
    clip = speech_like(1.234, sampling_rate)
    extractor = SpeechBertFeatureExtractor(mels, sampling_rate, feature_type="log_mel", normalize=None)
    features = extract(extractor, clip).input_features[0]
    torch.testing.assert_close(features, librosa_log_mel(clip, extractor), atol=PARITY, rtol=0)


# --- Normalisation and batches


def test_normalize_utterance_gives_mean_0_and_variance_1_over_valid_frames():
    clips = [speech_like(0.7), speech_like(1.9, seed=1)]
    batch = extract(SpeechBertFeatureExtractor(), clips)
    for features, mask in zip(batch.input_features, batch.attention_mask, strict=True):
        valid = features[mask.bool()].double().numpy()
        np.testing.assert_allclose(valid.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(valid.var(0), 1, atol=1e-4)
        assert (features[~mask.bool()] == 0).all()


def test_normalize_utterance_matches_numpy():
    clip = speech_like(1.0)
    plain = extract(SpeechBertFeatureExtractor(normalize="none"), clip).input_features[0].numpy()
    mean_only = extract(SpeechBertFeatureExtractor(normalize="mean"), clip).input_features[0].numpy()
    full = extract(SpeechBertFeatureExtractor(), clip).input_features[0].numpy()
    np.testing.assert_allclose(mean_only, plain - plain.mean(0), atol=1e-4)
    np.testing.assert_allclose(full, (plain - plain.mean(0)) / plain.std(0), atol=1e-4)


@pytest.mark.parametrize("feature_type", FEATURE_TYPES)
def test_normalize_running_matches_numpy(feature_type, monkeypatch):
    monkeypatch.setattr(normalization, "NORMALIZE_BLOCK_FRAMES", 37)
    options = {"feature_type": feature_type, "waveform_scale": 32768.0}
    clip = speech_like(1.0)
    plain = extract(SpeechBertFeatureExtractor(20, normalize="none", **options), clip).input_features[0].double()
    given = extract(SpeechBertFeatureExtractor(20, normalize="running", **options), clip).input_features[0]
    # The prior: frames of one mean and one deviation in all mel filters; for mfcc C0 stands for that mean.
    loudness = normalization.PRIOR_MEL_MEAN[feature_type] + 2 * np.log(32768)
    centre = np.full(20, loudness) if feature_type != "mfcc" else np.r_[loudness * np.sqrt(23), np.zeros(19)]
    std, prior = normalization.PRIOR_STD[feature_type], normalization.PRIOR_FRAMES
    half = np.tile(centre + std, (prior // 2, 1)), np.tile(centre - std, (prior // 2, 1))
    for frame in (0, 1, 36, 37, 97):
        heard = np.concatenate([*half, plain[: frame + 1].numpy()])
        expected = (plain[frame].numpy() - heard.mean(0)) / heard.std(0)
        np.testing.assert_allclose(given[frame].numpy(), expected, atol=1e-4)


def test_normalize_running_hears_nothing_that_follows():
    extractor = SpeechBertFeatureExtractor(normalize="running")
    clip = speech_like(2.0)
    whole = extract(extractor, [clip, speech_like(0.5)]).input_features
    cut = extract(extractor, clip[:RATE_HZ]).input_features
    torch.testing.assert_close(whole[0, : cut.shape[1]], cut[0], atol=1e-5, rtol=0)
    assert (whole[1, extractor.frame_count(RATE_HZ // 2) :] == 0).all()


@pytest.mark.parametrize("feature_type", FEATURE_TYPES)
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_call_on_batch_equals_each_clip_alone(feature_type, padding_side):
    extractor = SpeechBertFeatureExtractor(40, feature_type=feature_type, padding_side=padding_side)
    clips = [speech_like(duration_s, seed=i) for i, duration_s in enumerate([0.025, 0.31, 2.0, 0.9])]
    batch = extract(extractor, clips)
    assert batch.attention_mask.sum(1).tolist() == [extractor.frame_count(len(clip)) for clip in clips]
    for clip, features, mask in zip(clips, batch.input_features, batch.attention_mask, strict=True):
        torch.testing.assert_close(features[mask.bool()], extract(extractor, clip).input_features[0], atol=0, rtol=0)
        assert (features[~mask.bool()] == 0.0).all()


@pytest.mark.parametrize("feature_type", FEATURE_TYPES)
def test_extract_joined_equals_clips_one_by_one(feature_type):
    extractor = SpeechBertFeatureExtractor(40, feature_type=feature_type, normalize=None)
    waveforms = [torch.from_numpy(speech_like(s, seed=i)) for i, s in enumerate([0.4, 0.03, 1.3])]
    expected = [extract(extractor, waveform).input_features[0] for waveform in waveforms]
    outputs = [torch.empty_like(features) for features in expected]
    extractor._extract_joined(waveforms, outputs)
    for output, features in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, features, atol=1e-4, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("feature_type", FEATURE_TYPES)
def test_call_on_cuda_matches_cpu(feature_type):
    extractor = SpeechBertFeatureExtractor(40, feature_type=feature_type, normalize=None)
    clips = [speech_like(duration_s, seed=i) for i, duration_s in enumerate([0.025, 0.31, 2.0, 0.9])]
    batch = extract(extractor, clips, device="cuda")
    expected = extract(extractor, clips)
    assert batch.input_features.device.type == batch.attention_mask.device.type == "cuda"
    torch.testing.assert_close(batch.input_features.cpu(), expected.input_features, atol=PARITY, rtol=0)
    for clip, features in zip(clips, batch.input_features, strict=True):
        alone = extract(extractor, torch.from_numpy(clip).cuda()).input_features[0]
        torch.testing.assert_close(features[: len(alone)], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("feature_type", FEATURE_TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_call_in_blocks_equals_one_block(feature_type, dtype, monkeypatch):
    extractor = SpeechBertFeatureExtractor(40, feature_type=feature_type, normalize=None)
    clip = speech_like(3.0)
    clip = clip if dtype == np.float32 else (clip * 32767).astype(np.int16)
    expected = extract(extractor, clip).input_features
    for block_frames in (1, 7, 64):
        monkeypatch.setattr(module, "CPU_BLOCK_FRAMES", block_frames)
        torch.testing.assert_close(extract(extractor, clip).input_features, expected, atol=1e-4, rtol=0)


def test_call_on_half_an_hour_needs_little_more_memory_than_its_features():
    extractor = SpeechBertFeatureExtractor(80)
    clip = np.tile((speech_like(10.0) * 32767).astype(np.int16), 180)
    seen = []
    original = torch.fft.rfft
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.fft, "rfft", lambda frames: seen.append(len(frames)) or original(frames))
        features = extract(extractor, clip).input_features[0]
    assert features.shape == (extractor.frame_count(len(clip)), 80)
    assert max(seen) <= module.CPU_BLOCK_FRAMES
    np.testing.assert_allclose(features.double().mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(features.double().var(0), 1, atol=1e-3)


# --- What may be given


def test_call_with_int16_equals_float():
    samples = (speech_like(0.8) * 32767).astype(np.int16)
    extractor = SpeechBertFeatureExtractor()
    expected = extract(extractor, samples.astype(np.float32) / 32768).input_features
    torch.testing.assert_close(extract(extractor, samples).input_features, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        extract(extractor, torch.from_numpy(samples)).input_features, expected, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    "convert",
    [
        lambda clip: clip,
        lambda clip: clip.tolist(),
        lambda clip: tuple(clip.tolist()),
        lambda clip: list(clip),
        lambda clip: [clip],
        lambda clip: (clip,),
        lambda clip: [clip.tolist()],
        lambda clip: [tuple(clip.tolist())],
        lambda clip: clip[None],
        lambda clip: torch.from_numpy(clip),
        lambda clip: [torch.from_numpy(clip)],
        lambda clip: torch.from_numpy(clip)[None],
        lambda clip: torch.from_numpy(clip).requires_grad_(),
        lambda clip: clip.astype(np.float64),
        lambda clip: clip.astype(np.longdouble),
        lambda clip: clip.astype(">f4"),
        lambda clip: clip[::-1].copy()[::-1],
        lambda clip: np.frombuffer(clip.tobytes(), dtype=np.float32),
        lambda clip: [clip[None]],
        lambda clip: [clip[:, None]],
        lambda clip: clip[:, None],
        lambda clip: clip[None, None],
    ],
    ids=lambda convert: None,
)
def test_call_is_invariant_to_container(convert, recwarn):
    clip = speech_like(0.3)
    extractor = SpeechBertFeatureExtractor()
    expected = extract(extractor, clip)
    given_as = extract(extractor, convert(clip))
    assert given_as.input_features.shape == expected.input_features.shape == (1, 28, 80)
    torch.testing.assert_close(given_as.input_features, expected.input_features, atol=1e-5, rtol=0)
    assert not [warning for warning in recwarn if "writ" in str(warning.message)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_call_with_half_precision_clip_matches_float32(dtype):
    clip = torch.from_numpy(speech_like(0.3)).to(dtype)
    extractor = SpeechBertFeatureExtractor()
    batch = extract(extractor, clip)
    assert batch.input_features.dtype == torch.float32
    torch.testing.assert_close(batch.input_features, extract(extractor, clip.float()).input_features)


def test_call_with_2d_array_is_a_batch():
    batch = np.stack([speech_like(0.5), speech_like(0.5, seed=1)])
    extractor = SpeechBertFeatureExtractor()
    expected = extract(extractor, list(batch)).input_features
    for clips in (batch, torch.from_numpy(batch), batch.tolist()):
        torch.testing.assert_close(extract(extractor, clips).input_features, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
@pytest.mark.parametrize(
    "convert",
    [
        lambda left, right: [np.stack([left, right])],
        lambda left, right: [np.stack([left, right], axis=1)],
        lambda left, right: np.stack([left, right], axis=1),
        lambda left, right: np.stack([left, right])[None],
        lambda left, right: [torch.from_numpy(np.stack([left, right]))],
        lambda left, right: [[left, right]],
        lambda left, right: [[torch.from_numpy(left), torch.from_numpy(right)]],
    ],
)
def test_call_with_stereo_averages_channels(convert, dtype):
    left, right = speech_like(0.5), speech_like(0.5, seed=1)
    mono = (left + right) / 2
    if dtype == np.int16:
        left, right = ((side * 32767).astype(np.int16) for side in (left, right))
        mono = (left.astype(np.float32) + right.astype(np.float32)) / 65536
    extractor = SpeechBertFeatureExtractor()
    features = extract(extractor, convert(left, right)).input_features
    torch.testing.assert_close(features, extract(extractor, mono).input_features, atol=1e-3, rtol=0)


def test_call_does_not_change_its_input():
    clip = speech_like(0.3)
    before = clip.copy()
    extract(SpeechBertFeatureExtractor(), clip)
    np.testing.assert_array_equal(clip, before)


@pytest.mark.parametrize("feature_type", FEATURE_TYPES)
@pytest.mark.parametrize("level", [0.0, 0.25])
def test_call_with_constant_audio_is_finite_and_near_zero(feature_type, level):
    extractor = SpeechBertFeatureExtractor(40, feature_type=feature_type)
    features = extract(extractor, np.full(RATE_HZ, level, np.float32)).input_features
    assert torch.isfinite(features).all()
    if level == 0.0 and feature_type != "log_mel":
        assert features.abs().max() < 0.05


def test_call_under_autocast_and_other_default_dtype_is_unchanged():
    clip = speech_like(0.3)
    extractor = SpeechBertFeatureExtractor()
    expected = extract(extractor, clip).input_features
    module.feature_tables.cache_clear()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            features = extract(extractor, clip).input_features
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


# --- Sizes


@settings(max_examples=60)
@given(
    samples=st.integers(200, 6000),
    feature_type=st.sampled_from(FEATURE_TYPES),
    sampling_rate=st.sampled_from([8000, 11025]),
)
def test_frame_count_equals_frames_produced(samples, feature_type, sampling_rate):
    extractor = SpeechBertFeatureExtractor(20, sampling_rate, feature_type=feature_type)
    clip = np.zeros(max(samples, extractor.frame_length), np.float32)
    assert extract(extractor, clip).input_features.shape[1] == extractor.frame_count(len(clip))


def test_frame_count_at_the_edges():
    extractor = SpeechBertFeatureExtractor()
    assert [extractor.frame_count(samples) for samples in (0, 399, 400, 559, 560, 16000)] == [0, 0, 1, 1, 2, 98]
    log_mel = SpeechBertFeatureExtractor(feature_type="log_mel")
    assert [log_mel.frame_count(samples) for samples in (0, 399, 400, 480, 16000)] == [0, 0, 3, 4, 101]


def test_hop_length_is_in_samples():
    assert SpeechBertFeatureExtractor().hop_length == 160
    assert SpeechBertFeatureExtractor(sampling_rate=8000, frame_shift_ms=12.5).hop_length == 100


# --- Padding as in stock extractors


PADDINGS = [
    {},
    {"padding": "longest", "pad_to_multiple_of": 8},
    {"padding": "max_length", "max_length": 60},
    {"padding": "max_length", "max_length": 60, "pad_to_multiple_of": 16},
    {"padding": "max_length", "max_length": 20, "truncation": True},
    {"padding": "max_length", "max_length": 20, "truncation": True, "pad_to_multiple_of": 16},
    {"padding": True, "max_length": 30, "truncation": True},
    {"padding": "max_length", "max_length": 30},
    {"padding": False},
    {"padding": "do_not_pad", "max_length": 30, "truncation": True},
    {"padding": False, "pad_to_multiple_of": 16},
]


@pytest.mark.parametrize("options", PADDINGS, ids=str)
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_call_pads_as_stock_pad_does(options, padding_side):
    extractor = SpeechBertFeatureExtractor(normalize=None, padding_side=padding_side, padding_value=-1.5)
    clips = [speech_like(0.3), speech_like(0.5, seed=1)]
    unpadded = [extract(extractor, clip).input_features[0].numpy() for clip in clips]
    expected = extractor.pad(BatchFeature({"input_features": unpadded}), **({"padding": True} | options))
    batch = extractor(clips, sampling_rate=RATE_HZ, **options)
    assert set(batch) == {"input_features", "attention_mask"}
    for name in batch:
        assert len(batch[name]) == len(expected[name]) == 2
        for ours, theirs in zip(batch[name], expected[name], strict=True):
            assert isinstance(ours, np.ndarray)
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_call_with_truncation_normalizes_over_kept_frames():
    features = extract(SpeechBertFeatureExtractor(), speech_like(1.0), max_length=40, truncation=True).input_features
    assert features.shape == (1, 40, 80)
    np.testing.assert_allclose(features[0].mean(0), 0, atol=1e-5)


def test_call_returns_the_tensors_asked_for():
    extractor = SpeechBertFeatureExtractor()
    clip = speech_like(0.3)
    assert isinstance(extractor(clip, sampling_rate=RATE_HZ, return_tensors="np").input_features, np.ndarray)
    batch = extractor(clip, sampling_rate=RATE_HZ, return_tensors="pt")
    assert batch.input_features.dtype == torch.float32
    assert batch.attention_mask.dtype == torch.int32
    assert "attention_mask" not in extractor(clip, sampling_rate=RATE_HZ, return_attention_mask=False)
    quiet = SpeechBertFeatureExtractor(return_attention_mask=False)
    assert "attention_mask" not in quiet(clip, sampling_rate=RATE_HZ)


def test_call_with_unpadded_clips_as_tensors_raises():
    clips = [speech_like(0.3), speech_like(0.5)]
    with pytest.raises(ValueError, match="padding=True"):
        extract(SpeechBertFeatureExtractor(), clips, padding=False)


# --- Saving


def test_save_pretrained_round_trips(tmp_path):
    extractor = SpeechBertFeatureExtractor(
        13, 8000, feature_type="mfcc", num_mel_bins=30, normalize=None, frame_shift_ms=12.5, waveform_scale=32768.0
    )
    clip = speech_like(0.5, 8000)
    expected = extract(extractor, clip).input_features
    extractor.save_pretrained(tmp_path)
    loaded = SpeechBertFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict()
    assert torch.equal(extract(loaded, clip).input_features, expected)


def test_to_dict_after_use_holds_settings_only():
    extractor = SpeechBertFeatureExtractor()
    extract(extractor, speech_like(0.3))
    assert json.loads(json.dumps(extractor.to_dict())) == {
        "feature_extractor_type": "SpeechBertFeatureExtractor",
        "feature_size": 80,
        "sampling_rate": 16000,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": True,
        "feature_type": "fbank",
        "frame_length_ms": 25.0,
        "frame_shift_ms": 10.0,
        "normalize": "utterance",
        "num_mel_bins": None,
        "waveform_scale": 1.0,
    }


# --- Refusals


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros(0, np.float32), r"clip 1 is empty \(shape \(0,\)\)"),
        ([], r"clip 1 is empty"),
        (np.zeros((2, 0), np.float32), r"clip 1 is empty \(shape \(2, 0\)\)"),
        (
            np.zeros(160, np.float32),
            r"clip 1 lasts 10\.0 ms \(160 samples\) but one frame needs 25 ms \(400 samples\)",
        ),
        (np.zeros((2, 160), np.float32), r"clip 1 lasts 10\.0 ms"),
        (np.where(np.arange(8000) == 4000, np.nan, 0.1), r"clip 1 holds NaN or infinity, first at 0\.250 s .*4000"),
        (np.where(np.arange(8000) == 7999, np.inf, 0.1), r"clip 1 holds NaN or infinity, first at 0\.500 s .*7999"),
        (np.where(np.arange(8000) == 0, -np.inf, 0.1).astype(np.float16), r"clip 1 holds NaN or infinity"),
        (np.zeros((3, 4, 5000), np.float32), r"clip 1 has 3 dimensions \(shape \(3, 4, 5000\)\)"),
        (np.zeros((500, 600), np.float32), r"clip 1 has shape \(500, 600\), neither \(channels, samples\)"),
        (np.zeros(8000, np.int64), r"clip 1 holds torch\.int64 values; pass floating point in \[-1, 1\]"),
        (np.zeros(8000, np.complex64), r"clip 1 holds complex64 values, not numbers"),
        ("speech.wav", r"clip 1 holds <U10 values, not numbers"),
        (None, r"clip 1 holds object values, not numbers"),
        ([[0.1, 0.2], [0.3]], r"clip 1 is a nested list whose rows differ in length"),
        (16000, r"clip 1 holds torch\.int64 values"),
        (0.5, r"clip 1 has 0 dimensions"),
    ],
)
def test_call_with_bad_clip_raises(clip, message):
    with pytest.raises(ValueError, match=message):
        extract(SpeechBertFeatureExtractor(), [speech_like(0.3), clip])


@pytest.mark.parametrize(
    ("speech", "message"),
    [
        ([], "no audio was given"),
        (np.zeros((0, 16000)), "no audio was given"),
        ({"array": np.zeros(8000)}, "audio of type dict was given"),
        (None, "audio of type NoneType was given"),
        ("speech.wav", "audio of type str was given"),
        (["speech.wav"], "clip 0 holds <U10 values, not numbers"),
        ([[[0.1, 0.2], [0.3]]], "clip 0 is a nested list"),
        (np.zeros(0), "clip 0 is empty"),
    ],
)
def test_call_with_bad_batch_raises(speech, message):
    with pytest.raises(ValueError, match=message):
        extract(SpeechBertFeatureExtractor(), speech)


def test_call_with_nan_tensor_raises():
    with pytest.raises(ValueError, match="clip 0 holds NaN or infinity"):
        extract(SpeechBertFeatureExtractor(), torch.full((8000,), torch.nan, dtype=torch.bfloat16))


def test_call_with_other_sampling_rate_raises():
    with pytest.raises(ValueError, match=r"sampling_rate=44100 Hz was given but .* needs 16000 Hz; resample"):
        SpeechBertFeatureExtractor()(speech_like(0.3), sampling_rate=44100)


def test_call_without_sampling_rate_warns_once():
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    module.logger.addHandler(handler)
    try:
        extractor = SpeechBertFeatureExtractor(sampling_rate=16001)  # a message that no other test caused
        extractor(speech_like(0.3))
        extractor(speech_like(0.3))
    finally:
        module.logger.removeHandler(handler)
    assert len(messages) == 1
    assert "was not told the sampling_rate and takes the audio for 16001 Hz" in messages[0]


@pytest.mark.parametrize("padding", [True, "max_length"])
def test_call_with_max_length_0_raises(padding):
    with pytest.raises(ValueError, match="max_length=0 was given; at least 1 frame is needed"):
        extract(SpeechBertFeatureExtractor(), speech_like(0.3), padding=padding, max_length=0, truncation=True)


def test_call_with_truncation_but_no_length_raises():
    with pytest.raises(ValueError, match="truncation=True needs max_length"):
        extract(SpeechBertFeatureExtractor(), speech_like(0.3), truncation=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_type": "spectrogram"}, "feature_type='spectrogram' is unknown; use one of fbank, mfcc, log_mel"),
        ({"normalize": "global"}, "normalize='global' is unknown; use one of utterance, running, mean, none"),
        ({"feature_size": 257}, "257 mel filters do not fit: frames of 25 ms at 16000 Hz resolve 256 frequencies"),
        ({"feature_size": 129, "sampling_rate": 8000}, "129 mel filters do not fit: .* at 8000 Hz resolve 128"),
        ({"feature_size": 3}, "use 4 to 256 filters"),
        ({"feature_size": 40, "num_mel_bins": 80}, "num_mel_bins=80 differs from feature_size=40"),
        ({"feature_size": 40, "num_mel_bins": 23, "feature_type": "mfcc"}, "feature_size=40 cepstra need"),
        ({"sampling_rate": 0}, "sampling_rate=0 Hz"),
        ({"frame_shift_ms": 0.01}, "every 0; at least 2 and 1 are needed"),
    ],
)
def test_init_with_bad_configuration_raises(options, message):
    with pytest.raises(ValueError, match=message):
        SpeechBertFeatureExtractor(**options)
