"""The constant matrices against torchaudio and librosa."""

import logging

import pytest
import torch

from hf_speechft.model import mel_filters_speechbert as module
from hf_speechft.model.mel_filters_speechbert import (
    cut_into_bands,
    feature_tables,
    kaldi_mel_filters,
    liftered_cosines,
    slaney_mel_filters,
)

SIZES = [(80, 512, 16000), (40, 256, 8000), (128, 2048, 44100)]  # filters, samples of the transform, rate in Hz


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kaldi_mel_filters_match_torchaudio(size):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    mels, fft_samples, sampling_rate = size
    expected, _ = kaldi.get_mel_banks(mels, fft_samples, float(sampling_rate), 20.0, 0.0, 100.0, -500.0, 1.0)
    filters = kaldi_mel_filters(*size)
    torch.testing.assert_close(filters[:-1].T, expected, atol=1e-6, rtol=0)
    assert (filters[-1] == 0).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_slaney_mel_filters_match_librosa(size):
    librosa = pytest.importorskip("librosa")
    mels, fft_samples, sampling_rate = size
    expected = torch.from_numpy(librosa.filters.mel(sr=sampling_rate, n_fft=fft_samples, n_mels=mels))
    torch.testing.assert_close(slaney_mel_filters(*size).T, expected, atol=1e-7, rtol=0)


def test_liftered_cosines_match_torchaudio():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    expected = kaldi._get_dct_matrix(13, 23) * kaldi._get_lifter_coeffs(13, 22.0)
    torch.testing.assert_close(liftered_cosines(23, 13), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cut_into_bands_gives_the_product_with_the_whole_matrix(size):
    filters = kaldi_mel_filters(*size)
    power = torch.rand(7, len(filters), generator=torch.Generator().manual_seed(0))
    bands = cut_into_bands(filters)
    energies = torch.cat([power[:, bins] @ weights for bins, weights in bands], dim=1)
    torch.testing.assert_close(energies, power @ filters)
    assert sum(weights.numel() for _, weights in bands) < 0.5 * filters.numel()


def test_feature_tables_warns_of_filters_too_narrow_for_a_frequency():
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    module.logger.addHandler(handler)
    feature_tables.cache_clear()
    try:
        feature_tables("fbank", 16000, 400, 512, 127, 127, "cpu")
    finally:
        module.logger.removeHandler(handler)
    assert len(messages) == 1
    assert "of 127 mel filters are always empty: narrower than the 31.2 Hz" in messages[0]
