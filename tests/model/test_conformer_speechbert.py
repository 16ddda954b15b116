"""The conformer layer against torch's attention, and its convolution against a sum."""

import pytest
import torch
from transformers import BertConfig

from hf_speechft import SpeechBertConfig
from hf_speechft.model.conformer_speechbert import KERNEL, ConformerLayer
from hf_speechft.model.padding_speechbert import length_mask


def make_layer(width, is_causal):
    text_config = BertConfig(hidden_size=width, num_attention_heads=4)
    attention = "causal" if is_causal else "bidirectional"
    return ConformerLayer(SpeechBertConfig(backbone_config=text_config, attention=attention)).eval()


@pytest.mark.parametrize("is_causal", [False, True])
def test_adapter_attention_matches_torch(is_causal):
    torch.manual_seed(0)
    layer = make_layer(128, is_causal)
    reference = torch.nn.MultiheadAttention(128, layer.heads, batch_first=True).eval()
    reference.in_proj_weight.data, reference.in_proj_bias.data = (
        layer.query_key_value.weight,
        layer.query_key_value.bias,
    )
    reference.out_proj.load_state_dict(layer.attention_output.state_dict())
    hidden, lengths = torch.randn(2, 9, 128), torch.tensor([9, 4])
    future = torch.ones(9, 9, dtype=torch.bool).triu(1) if is_causal else None
    expected, _ = reference(hidden, hidden, hidden, key_padding_mask=~length_mask(lengths, 9), attn_mask=future)
    torch.testing.assert_close(layer._attend(hidden, lengths), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_causal", [False, True])
def test_adapter_convolution_matches_a_sum_over_neighbours(is_causal):
    torch.manual_seed(0)
    layer = make_layer(16, is_causal)
    hidden = torch.randn(1, 20, 16)
    gated = torch.nn.functional.glu(layer.gate(hidden), dim=-1)[0]
    kernel = layer.convolution.weight[:, 0]  # (width, kernel)
    first = 1 - KERNEL if is_causal else -(KERNEL // 2)
    for step in (0, 7, 19):
        heard = [(tap, step + first + tap) for tap in range(KERNEL) if 0 <= step + first + tap < 20]
        summed = layer.convolution.bias + sum(kernel[:, tap] * gated[place] for tap, place in heard)
        expected = layer.convolution_output(torch.nn.functional.silu(layer.inner_norm(summed)))
        torch.testing.assert_close(layer._convolve(hidden, torch.tensor([20]))[0, step], expected, atol=1e-5, rtol=0)
