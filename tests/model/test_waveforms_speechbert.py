"""What counts as one clip or a batch, and the copying of samples. More forms are in the extractor's own tests."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_speechft.model.waveforms_speechbert import copy_samples, mix_channels, split_batch, to_array, to_tensor

FRAME = 400


@pytest.mark.parametrize(
    ("speech", "clips"),
    [
        ([0.0, 0.1], 1),
        (np.zeros(1000), 1),
        (np.zeros((3, 1000)), 3),
        (np.zeros((1000, 2)), 1),
        (torch.zeros(40, 1000), 40),
        (np.zeros((1000, 40)), 1000),
        ([np.zeros(1000), torch.zeros(900)], 2),
        ([[0.0, 0.1], [0.2]], 2),
    ],
)
def test_split_batch_tells_clips_from_channels(speech, clips):
    assert len(split_batch(speech, FRAME)) == clips


def test_to_tensor_shares_memory_unless_it_is_read_only():
    samples = np.zeros(10, np.float32)
    assert to_tensor(samples, 0).data_ptr() == samples.ctypes.data
    samples.flags.writeable = False
    assert to_tensor(samples, 0).data_ptr() != samples.ctypes.data


def test_to_array_takes_a_list_of_tensors_for_channels():
    assert to_array([torch.zeros(5), torch.ones(5)], 0).shape == (2, 5)


@pytest.mark.parametrize("axis", [0, 1])
def test_mix_channels_averages_and_scales_int16(axis):
    left, right = torch.tensor([100, 200, 300]), torch.tensor([300, 200, -300])
    clip = torch.stack([left, right], dim=axis).to(torch.int16)
    torch.testing.assert_close(mix_channels(clip, 0), torch.tensor([200.0, 200.0, 0.0]) / 32768)


@given(st.integers(0, 20), st.integers(-30, 30), st.integers(0, 30), st.booleans())
def test_copy_samples_equals_slicing_of_a_padded_clip(samples, start, size, is_int16):
    clip = np.arange(1, samples + 1)
    waveform = torch.from_numpy(clip.astype(np.int16 if is_int16 else np.float32))
    to = torch.full((size,), torch.nan)
    copy_samples(waveform, start, to)
    expected = np.pad(clip, 100)[100 + start : 100 + start + size] / (32768 if is_int16 else 1)
    np.testing.assert_allclose(to.numpy(), expected)
