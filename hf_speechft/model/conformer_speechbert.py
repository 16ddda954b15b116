"""The conformer layers that `adapter_layers` puts between the front-end and the body."""

import math

import torch
from torch import nn

from .configuration_speechbert import SpeechBertConfig
from .padding_speechbert import FrontendPast, length_mask, pad_time, zero_padding

HEAD_WIDTH = 64
KERNEL = 15  # steps that the convolution sees


class ConformerLayer(nn.Module):
    """A conformer layer (arXiv:2005.08100): half a feed-forward, attention, convolution, half a feed-forward.

    It differs from the paper's so that it is sound in padded batches and cheap: layer norm in place of batch norm;
    feed-forwards twice as wide as the model, not four times; and attention without positions, which its convolution
    tells apart.
    """

    def __init__(self, config: SpeechBertConfig) -> None:
        super().__init__()
        width = config.embedding_size
        self.heads = width // math.gcd(width, HEAD_WIDTH)
        self.is_causal = config.attention == "causal"
        self.dropout = nn.Dropout(config.frontend_dropout)
        self.feed_forwards = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 2 * width),
                nn.SiLU(),
                nn.Dropout(config.frontend_dropout),
                nn.Linear(2 * width, width),
            )
            for _ in range(2)
        )
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.convolution_norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.convolution = nn.Conv1d(width, width, KERNEL, groups=width)
        self.inner_norm = nn.LayerNorm(width)
        self.convolution_output = nn.Linear(width, width)
        self.output_norm = nn.LayerNorm(width)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor, past: FrontendPast | None = None) -> torch.Tensor:
        """Map `(batch, steps, hidden)` to the same shape.

        Args:
            hidden: Steps; with a past, those that follow it.
            lengths: Steps of each utterance, `(batch,)`.
            past: What came before, in a stream.
        """
        before, after = self.feed_forwards
        hidden = hidden + 0.5 * self.dropout(before(hidden))
        hidden = hidden + self.dropout(self._attend(self.attention_norm(hidden), lengths, past))
        hidden = hidden + self.dropout(self._convolve(self.convolution_norm(hidden), lengths, past))
        hidden = hidden + 0.5 * self.dropout(after(hidden))
        return self.output_norm(hidden)

    def _attend(self, hidden: torch.Tensor, lengths: torch.Tensor, past: FrontendPast | None = None) -> torch.Tensor:
        batch, steps, width = hidden.shape
        split = self.query_key_value(hidden).view(batch, steps, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (batch, heads, steps, width / heads)
        if past is not None:
            earlier = past.layers.get(self.query_key_value)  # (2, batch, heads, steps before, width / heads)
            key_value = torch.stack([key, value])
            key_value = key_value if earlier is None else torch.cat([earlier, key_value], dim=3)
            past.layers[self.query_key_value] = key_value
            key, value = key_value
        before = key.shape[2] - steps
        mask = length_mask(before + lengths.clamp(min=1), before + steps)[:, None, None, :]  # (batch, 1, 1, keys)
        if self.is_causal:
            mask = mask & torch.ones(steps, before + steps, dtype=torch.bool, device=hidden.device).tril(before)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.attention_output(attended.transpose(1, 2).reshape(batch, steps, width))

    def _convolve(self, hidden: torch.Tensor, lengths: torch.Tensor, past: FrontendPast | None = None) -> torch.Tensor:
        hidden = zero_padding(nn.functional.glu(self.gate(hidden), dim=-1), lengths)
        before = KERNEL - 1 if self.is_causal else KERNEL // 2
        padding = (before, KERNEL - 1 - before)
        hidden = pad_time(hidden.transpose(1, 2), padding, 1, self.convolution, past)
        hidden = self.convolution(hidden).transpose(1, 2)
        return self.convolution_output(nn.functional.silu(self.inner_norm(hidden)))
