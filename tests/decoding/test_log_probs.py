import numpy as np
import pytest
import torch

from hf_speechft.decoding.log_probs import check_batch, check_log_probs


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [
        (np.zeros(4), r"log_probs has shape \(4,\)"),
        (np.zeros((1, 4, 3)), r"shape \(1, 4, 3\).* pass the items of a batch one by one"),
        (np.array([["a"]]), "type <U1"),
        (torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), "sum to .* apply log_softmax to the logits"),
        (np.full((2, 4), 1e4), "the probabilities of step 0 sum to inf"),
        (np.full((2, 3), 1 / 3), "apply log_softmax"),
        (np.log([[0.5, 0.5], [0.5, 0.55]]), "the probabilities of step 1 sum to 1.05"),
        (np.array([[np.log(0.5)] * 2, [np.nan, 0.0]]), "log_probs holds NaN, first in step 1"),
        (np.full((2, 3), -np.inf), "sum to 0"),
    ],
)
def test_check_log_probs_bad_input_raises(log_probs, message):
    with pytest.raises(ValueError, match=message):
        check_log_probs(log_probs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_check_log_probs_of_a_tensor_keeps_its_precision(dtype):
    log_probs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1).to(dtype)
    checked = check_log_probs(log_probs.requires_grad_())
    assert checked.dtype == (np.float64 if dtype is torch.float64 else np.float32)
    assert checked.tolist() == log_probs.tolist()


def test_check_batch_looks_at_no_padding():
    log_probs = np.full((2, 3, 2), np.log(0.5))
    log_probs[1, 2] = np.nan
    array, lengths = check_batch(log_probs, torch.tensor([3, 2]), 2)
    assert (array.dtype, array.shape, lengths.tolist()) == (np.float32, (2, 3, 2), [3, 2])
    with pytest.raises(ValueError, match="log_probs of utterance 1 holds NaN, first in step 2"):
        check_batch(log_probs, None, 2)
