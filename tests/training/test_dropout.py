"""Dropout from bytes: what it keeps, by how much it scales, and whose place it takes."""

import copy

import pytest
import torch
from torch import nn

from hf_speechft.training.dropout import ByteDropout, draw_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_a_share_is_zero_and_the_rest_scaled_as_by_torch(p, dtype):
    torch.manual_seed(0)
    values = ByteDropout(p)(torch.ones(400, 501, dtype=dtype))  # no multiple of 8
    share = (values == 0).double().mean().item()
    assert share == pytest.approx(p, abs=0.004)  # half a 256th, and four standard deviations
    assert values[values > 0].unique().item() == pytest.approx(1 / (1 - p), rel=0.01)
    assert values.dtype == dtype


def test_each_value_is_drawn_by_itself():
    torch.manual_seed(0)
    kept = ByteDropout(0.5)(torch.ones(10_000, 16)) > 0
    together = torch.corrcoef(kept.double().T)
    assert (together - torch.eye(16)).abs().max() < 0.05
    assert (kept.double().mean(dim=0) - 0.5).abs().max() < 0.025


def test_gradient_goes_through_what_was_kept():
    values = torch.ones(100, requires_grad=True)
    dropped = ByteDropout(0.25)(values)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, dropped.detach())


def test_a_seed_gives_the_same_mask():
    values, dropout = torch.ones(33), ByteDropout(0.5)
    torch.manual_seed(7)
    one, other = dropout(values), dropout(values)
    torch.manual_seed(7)
    torch.testing.assert_close(dropout(values), one)
    assert not torch.equal(one, other)


def test_nothing_is_dropped_in_evaluation_or_at_zero():
    values = torch.randn(33)
    assert ByteDropout(0.5).eval()(values) is values
    torch.testing.assert_close(ByteDropout(0.0)(values), values)
    assert not ByteDropout(1.0)(values).any()


def test_a_model_gets_it_in_place_of_torchs_own():
    class OfTheirOwn(nn.Dropout):
        pass

    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3), OfTheirOwn(0.4))).eval()
    names = list(copy.deepcopy(model).state_dict())
    draw_bytes(model)
    assert [type(model[1]), type(model[2][0]), type(model[2][1])] == [ByteDropout, ByteDropout, OfTheirOwn]
    assert (model[1].p, model[2][0].p, model[1].training) == (0.2, 0.3, False)
    assert list(model.state_dict()) == names
