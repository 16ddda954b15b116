"""Audio front-ends: feature frames in, one vector per transformer step out, in place of word embeddings.

features (batch, frames, mels)
  -> encode: what the front-ends differ in                        (batch, steps, channels)
  -> linear projection to the width of the word embeddings        (batch, steps, embedding)
  -> conformer layers, where `adapter_layers` asks for some       (batch, steps, embedding)
  -> norm with the scale of the checkpoint's word embeddings      (batch, steps, embedding)

Each front-end keeps two promises: it gives `output_lengths(frame_lengths, subsampling)` steps, and what stands behind
an utterance's last frame changes nothing. To add one, write its `encode` and name the class in `FRONTENDS`.

With causal attention an utterance can also come in pieces (`Frontend.stream`): `encode` is then given a
`FrontendPast`, where each layer leaves what it needs again.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .configuration_speechbert import SpeechBertConfig

RNN_LAYERS = 2
CHANNELS_2D = 64  # feature maps of the convolutions over time and frequency
ADAPTER_HEAD_WIDTH = 64
ADAPTER_KERNEL = 15  # steps that an adapter's convolution sees


def output_lengths(frame_lengths: torch.Tensor | int, subsampling: int) -> torch.Tensor | int:
    """Steps that a front-end makes of an utterance: `ceil(frames / subsampling)`.

    Masks, the CTC loss, decoding and time stamps all come from this function.

    Args:
        frame_lengths: Frames of each utterance, `(batch,)`, or of one.
        subsampling: Frames per step.

    Returns:
        Steps of each utterance, of the type that was given.

    >>> output_lengths(98, 4)
    25
    """
    return (frame_lengths + subsampling - 1) // subsampling


def length_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Boolean mask `(batch, size)`, True in the first `lengths[i]` places of row i."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def zero_padding(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`(batch, size, channels)` with zeros behind each row's length, as a convolution finds them behind a tensor."""
    return hidden * length_mask(lengths, hidden.shape[1])[..., None].to(hidden.dtype)


@dataclass
class FrontendPast:
    """What a causal front-end remembers of utterances that come in pieces, all of the same length.

    Attributes:
        frames: Frames that have come and complete no step yet, `(batch, frames, mels)`.
        steps: Steps encoded so far, with those that a look-ahead drops.
        layers: What a layer needs again: a convolution's last inputs, a recurrence's state, attention's keys and
            values.
    """

    frames: torch.Tensor | None = None
    steps: int = 0
    layers: dict[nn.Module, torch.Tensor] = field(default_factory=dict)


def pad_time(
    inputs: torch.Tensor, padding: tuple[int, int], stride: int, layer: nn.Module, past: FrontendPast | None
) -> torch.Tensor:
    """Put around the inputs of a convolution over time what its first and last outputs see beside them.

    Args:
        inputs: `(batch, channels, size)` or `(batch, channels, size, bins)`.
        padding: Places to add before and behind.
        stride: That of the convolution.
        layer: The convolution.
        past: Where the inputs follow others, those are added before, and nothing behind. Otherwise zeros are added.

    Returns:
        The inputs, longer.
    """
    if past is None or layer not in past.layers:
        behind = padding[1] if past is None else 0
        inputs = nn.functional.pad(inputs, (0, 0) * (inputs.ndim - 3) + (padding[0], behind))
    else:
        inputs = torch.cat([past.layers[layer], inputs], dim=2)
    if past is not None:
        outputs = (inputs.shape[2] - padding[0] - 1) // stride + 1
        past.layers[layer] = inputs[:, :, outputs * stride :]
    return inputs


class Frontend(nn.Module):
    """What all front-ends share: projection, adapters and the norm that stands for the word embeddings' scale.

    Args:
        config: The model's configuration.
        channels: Width of what `encode` gives.
    """

    def __init__(self, config: SpeechBertConfig, channels: int) -> None:
        super().__init__()
        self.subsampling = config.subsampling
        self.lookahead = config.lookahead_steps
        self.dropout = nn.Dropout(config.frontend_dropout)
        self.projection = nn.Linear(channels, config.embedding_size)
        self.adapters = nn.ModuleList(ConformerLayer(config) for _ in range(config.adapter_layers))
        self.output_norm = nn.LayerNorm(config.embedding_size)

    @property
    def first_step_frames(self) -> int:
        """Frames that the first causal step hears without look-ahead; each further step hears `subsampling` more."""
        return self.subsampling

    def encode(
        self, features: torch.Tensor, frame_lengths: torch.Tensor, past: FrontendPast | None = None
    ) -> torch.Tensor:
        """Map `(batch, frames, mels)` to `(batch, steps, channels)`; with a past, the frames that follow it."""
        raise NotImplementedError

    def forward(self, features: torch.Tensor, frame_lengths: torch.Tensor) -> torch.Tensor:
        """Map `(batch, frames, mels)` to `(batch, steps, embedding)`.

        To look ahead, silence is added behind the utterance, and each step is what a later one would be without.
        """
        if self.lookahead:
            frames = self.lookahead * self.subsampling
            features = nn.functional.pad(zero_padding(features, frame_lengths), (0, 0, 0, frames))
            frame_lengths = frame_lengths + frames
        hidden = self.projection(self.encode(features, frame_lengths))
        step_lengths = output_lengths(frame_lengths, self.subsampling)
        for adapter in self.adapters:
            hidden = adapter(hidden, step_lengths)
        return self.output_norm(hidden[:, self.lookahead :])

    def stream(self, features: torch.Tensor, past: FrontendPast, is_last: bool) -> torch.Tensor:
        """Map the next frames to the steps that they complete; together they are those of `forward` on all frames.

        Args:
            features: `(batch, frames, mels)`, any number of frames, all of them real.
            past: What the calls before left, a new one for new utterances. It is changed.
            is_last: Whether the utterances end here.

        Returns:
            `(batch, steps, embedding)`, often of 0 steps.
        """
        frames = features if past.frames is None else torch.cat([past.frames, features], dim=1)
        encoded = self._frames_heard(past.steps)
        if is_last:
            missing = -(encoded + frames.shape[1]) % self.subsampling + self.lookahead * self.subsampling
            frames = nn.functional.pad(frames, (0, 0, 0, missing))
        steps = (encoded + frames.shape[1] - self.first_step_frames + self.subsampling) // self.subsampling
        new_frames = self._frames_heard(steps) - encoded
        past.frames = frames[:, new_frames:]
        batch, new_steps = len(features), steps - past.steps
        if new_steps == 0:
            return features.new_empty(batch, 0, self.projection.out_features)
        dropped = max(0, self.lookahead - past.steps)
        lengths = torch.full((batch,), new_frames, device=features.device)
        hidden = self.projection(self.encode(frames[:, :new_frames], lengths, past))
        for adapter in self.adapters:
            hidden = adapter(hidden, torch.full((batch,), new_steps, device=features.device), past)
        past.steps = steps
        return self.output_norm(hidden[:, dropped:])

    def _frames_heard(self, steps: int) -> int:
        """Frames that the first so many steps hear, which a causal front-end has to wait for."""
        return 0 if steps == 0 else self.first_step_frames + (steps - 1) * self.subsampling


class Conv1dFrontend(Frontend):
    """Convolutions over time of kernel 3 and stride 2, one for each halving of the frame rate.

    With causal attention the kernels see the present and the two past inputs; otherwise one input on either side.
    Normalisation is over channels only, so that no statistic mixes utterances or padding.
    """

    def __init__(self, config: SpeechBertConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.time_padding = (2, 0) if config.attention == "causal" else (1, 1)
        channels = [config.num_mel_bins] + [config.hidden_size] * halvings(config)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel_size=3, stride=2)
            for inputs, outputs in zip(channels, channels[1:], strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size) for _ in self.convolutions)

    @property
    def first_step_frames(self) -> int:
        """As in `Frontend`: the kernels end with the step's first frame."""
        return 1

    def encode(
        self, features: torch.Tensor, frame_lengths: torch.Tensor, past: FrontendPast | None = None
    ) -> torch.Tensor:
        """Map `(batch, frames, mels)` to `(batch, steps, hidden)`; with a past, the frames that follow it."""
        hidden, lengths = features, frame_lengths
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = zero_padding(hidden, lengths).transpose(1, 2)
            hidden = pad_time(hidden, self.time_padding, 2, convolution, past)
            hidden = convolution(hidden).transpose(1, 2)  # (batch, ceil(frames / 2), hidden)
            hidden = self.dropout(nn.functional.gelu(norm(hidden)))
            lengths = output_lengths(lengths, 2)
        return hidden


class Conv2dFrontend(Frontend):
    """Convolutions over time and frequency of kernel 3 and stride 2, one for each halving of the frame rate.

    The same kernel serves all mel bins, so that a sound is known again at another pitch. Those after the first are
    separable into one over time and frequency and one over channels, as in FastConformer (arXiv:2305.05084).
    """

    def __init__(self, config: SpeechBertConfig) -> None:
        bins = config.num_mel_bins
        for _ in range(halvings(config)):
            bins = output_lengths(bins, 2)
        super().__init__(config, CHANNELS_2D * bins)
        self.time_padding = (2, 0) if config.attention == "causal" else (1, 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(1, CHANNELS_2D, 3, stride=2)
            if index == 0
            else nn.Sequential(
                nn.Conv2d(CHANNELS_2D, CHANNELS_2D, 3, stride=2, groups=CHANNELS_2D),
                nn.Conv2d(CHANNELS_2D, CHANNELS_2D, 1),
            )
            for index in range(halvings(config))
        )

    @property
    def first_step_frames(self) -> int:
        """As in `Frontend`: the kernels end with the step's first frame."""
        return 1

    def encode(
        self, features: torch.Tensor, frame_lengths: torch.Tensor, past: FrontendPast | None = None
    ) -> torch.Tensor:
        """Map `(batch, frames, mels)` to `(batch, steps, maps x bins)`; with a past, the frames that follow it."""
        hidden, lengths = features[:, None], frame_lengths  # (batch, maps, frames, bins)
        for convolution in self.convolutions:
            hidden = hidden * length_mask(lengths, hidden.shape[2])[:, None, :, None].to(hidden.dtype)
            hidden = nn.functional.pad(pad_time(hidden, self.time_padding, 2, convolution, past), (1, 1))
            hidden = nn.functional.gelu(convolution(hidden))
            lengths = output_lengths(lengths, 2)
        return self.dropout(hidden.transpose(1, 2).flatten(2))


class StackFrontend(Frontend):
    """`subsampling` frames are stacked into one step and go through one layer: the cheapest front-end.

    What lies across the border of two steps is left to the adapters and the transformer.
    """

    def __init__(self, config: SpeechBertConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.stacking = nn.Linear(config.num_mel_bins * config.subsampling, config.hidden_size)

    def encode(
        self, features: torch.Tensor, frame_lengths: torch.Tensor, past: FrontendPast | None = None
    ) -> torch.Tensor:
        """Map `(batch, frames, mels)` to `(batch, steps, hidden)`, each step by itself."""
        stacked = stack_frames(zero_padding(features, frame_lengths), self.subsampling)
        return self.dropout(nn.functional.gelu(self.stacking(stacked)))


class RnnFrontend(StackFrontend):
    """Stacked frames as in `StackFrontend`, then two layers of gated recurrent units over the steps.

    The recurrence runs both ways, or forwards only with causal attention.
    """

    def __init__(self, config: SpeechBertConfig) -> None:
        super().__init__(config)
        directions = 1 if config.attention == "causal" else 2
        if config.hidden_size % directions:
            raise ValueError(f"front-end rnn needs an even hidden size; the checkpoint's is {config.hidden_size}")
        self.rnn = nn.GRU(
            config.hidden_size,
            config.hidden_size // directions,
            num_layers=RNN_LAYERS,
            batch_first=True,
            bidirectional=directions == 2,
            dropout=config.frontend_dropout,
        )

    def encode(
        self, features: torch.Tensor, frame_lengths: torch.Tensor, past: FrontendPast | None = None
    ) -> torch.Tensor:
        """Map `(batch, frames, mels)` to `(batch, steps, hidden)`; with a past, the frames that follow it."""
        hidden = super().encode(features, frame_lengths)
        if past is not None:
            hidden, past.layers[self.rnn] = self.rnn(hidden, past.layers.get(self.rnn))
            return self.dropout(hidden)
        lengths = output_lengths(frame_lengths, self.subsampling).clamp(min=1).cpu()
        packed = pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=hidden.shape[1])
        return self.dropout(hidden)


class ConformerLayer(nn.Module):
    """A conformer layer (arXiv:2005.08100): half a feed-forward, attention, convolution, half a feed-forward.

    It differs from the paper's so that it is sound in padded batches and cheap: layer norm in place of batch norm;
    feed-forwards twice as wide as the model, not four times; and attention without positions, which its convolution
    tells apart.
    """

    def __init__(self, config: SpeechBertConfig) -> None:
        super().__init__()
        width = config.embedding_size
        self.heads = width // math.gcd(width, ADAPTER_HEAD_WIDTH)
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
        self.convolution = nn.Conv1d(width, width, ADAPTER_KERNEL, groups=width)
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
        before = ADAPTER_KERNEL - 1 if self.is_causal else ADAPTER_KERNEL // 2
        padding = (before, ADAPTER_KERNEL - 1 - before)
        hidden = pad_time(hidden.transpose(1, 2), padding, 1, self.convolution, past)
        hidden = self.convolution(hidden).transpose(1, 2)
        return self.convolution_output(nn.functional.silu(self.inner_norm(hidden)))


FRONTENDS: dict[str, type[Frontend]] = {
    "conv1d": Conv1dFrontend,
    "conv2d": Conv2dFrontend,
    "rnn": RnnFrontend,
    "stack": StackFrontend,
}


def build_frontend(config: SpeechBertConfig) -> Frontend:
    """Make the front-end that `config.frontend` names.

    Raises:
        ValueError: No front-end has that name.
    """
    if config.frontend not in FRONTENDS:
        raise ValueError(f"frontend is {config.frontend!r}; it needs to be one of {', '.join(FRONTENDS)}")
    return FRONTENDS[config.frontend](config)


def halvings(config: SpeechBertConfig) -> int:
    """How often the frame rate is halved: 1, 2 or 3 times."""
    return config.subsampling.bit_length() - 1


def stack_frames(features: torch.Tensor, subsampling: int) -> torch.Tensor:
    """Put neighbouring frames side by side, zeros behind the last.

    Args:
        features: `(batch, frames, mels)`.
        subsampling: Frames in a step.

    Returns:
        `(batch, ceil(frames / subsampling), subsampling x mels)`.
    """
    batch, frames, mels = features.shape
    steps = output_lengths(frames, subsampling)
    padded = nn.functional.pad(features, (0, 0, 0, steps * subsampling - frames))
    return padded.reshape(batch, steps, subsampling * mels)


@torch.no_grad()
def match_embedding_scale(frontend: Frontend, embeddings: torch.Tensor) -> None:
    """Start the front-end's last normalisation with the mean and deviation of the word embeddings in each dimension.

    The pre-trained layers behind expect that scale; an output of unit variance is some twenty times too loud for BERT
    and drowns its position embeddings.

    Args:
        frontend: A front-end; its output goes through `output_norm`.
        embeddings: The checkpoint's word embeddings, `(vocab, hidden)`.
    """
    embeddings = embeddings.float()
    frontend.output_norm.weight.copy_(embeddings.std(dim=0))
    frontend.output_norm.bias.copy_(embeddings.mean(dim=0))
