"""Features of a recording that comes in pieces, against those of the whole recording."""

import numpy as np
import pytest
import torch

from hf_speechft import SpeechBertFeatureExtractor
from hf_speechft.decoding.feature_stream import FeatureStream
from hf_speechft.model.feature_extraction_speechbert import FEATURE_TYPES

RATE_HZ = 16_000


def stream(extractor, waveform, sizes):
    """Features of all pieces in a row, and how many frames each piece gave; `sizes` are used in turn."""
    features, start, given = FeatureStream(extractor), 0, []
    while start < len(waveform):
        size = sizes[len(given) % len(sizes)]
        given.append(features.accept(waveform[start : start + size]))
        start += size
    given.append(features.finish())
    return torch.cat(given), [len(frames) for frames in given]


@pytest.mark.parametrize("normalize", ["running", "none"])
@pytest.mark.parametrize("feature_type", FEATURE_TYPES)
@pytest.mark.parametrize("sizes", [[1_280], [1, 160, 0, 399, 7_000, 3], [100_000]])
def test_features_of_pieces_are_those_of_the_whole(waveform, feature_type, normalize, sizes):
    extractor = SpeechBertFeatureExtractor(20, feature_type=feature_type, normalize=normalize)
    for samples in (len(waveform), 16_001, 400):
        clip = waveform[:samples]
        expected = extractor(clip, sampling_rate=RATE_HZ, return_tensors="pt").input_features[0]
        features, _ = stream(extractor, clip, sizes)
        # a processor may round the products of another number of frames otherwise, by the last bit: mfcc reaches 131
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(("feature_type", "first"), [("fbank", 400), ("mfcc", 400), ("log_mel", 400)])
def test_frame_comes_with_its_last_sample(waveform, feature_type, first):
    extractor = SpeechBertFeatureExtractor(20, feature_type=feature_type, normalize="running")
    _, counts = stream(extractor, waveform[:2_000], [1])
    come = [place + 1 for place, count in enumerate(counts[:-1]) for _ in range(count)]
    if feature_type == "log_mel":  # centred: the first two lie before sample 400, a clip's least length
        assert come == [400, 400, *range(400 + 120, 2_001, 160)]
        assert counts[-1] == extractor.frame_count(2_000) - len(come)
    else:
        assert come == list(range(first, 2_001, 160))
        assert counts[-1] == 0


def test_pieces_of_any_kind_give_the_same(waveform, recwarn):
    extractor = SpeechBertFeatureExtractor(20, normalize="running")
    pcm = (waveform[:8_000] * 32_767).astype(np.int16)
    read_only = np.frombuffer(pcm.tobytes(), np.int16)
    expected, _ = stream(extractor, pcm.astype(np.float32) / 32_768, [500])
    for kind in (pcm, read_only, torch.from_numpy(pcm), pcm / 32_768, torch.from_numpy(pcm / 32_768)):
        features, _ = stream(extractor, kind, [500])
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    assert not recwarn.list


def test_recording_shorter_than_a_frame_has_none(waveform):
    for feature_type in FEATURE_TYPES:
        extractor = SpeechBertFeatureExtractor(20, feature_type=feature_type, normalize="running")
        for samples in (0, 399):
            assert FeatureStream(extractor).finish().shape == (0, 20)
            assert stream(extractor, waveform[:samples], [100])[0].shape == (0, 20)


@pytest.mark.parametrize("normalize", ["utterance", "mean"])
def test_normalisation_over_the_utterance_raises(normalize):
    message = f"normalised over the whole utterance .normalize='{normalize}'.*train one with --normalize running"
    with pytest.raises(ValueError, match=message):
        FeatureStream(SpeechBertFeatureExtractor(normalize=normalize))


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (np.zeros((2, 100), np.float32), r"float32 with shape \(2, 100\) was given; pass mono samples"),
        (np.zeros(100, np.int32), "int32 with shape .* or as int16"),
        (np.array([0.0, np.nan], np.float32), "holds NaN or infinity"),
    ],
)
def test_piece_that_is_no_mono_sound_raises(piece, message):
    with pytest.raises(ValueError, match=message):
        FeatureStream(SpeechBertFeatureExtractor(normalize="running")).accept(piece)
