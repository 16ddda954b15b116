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

import torch
from torch import nn

from .configuration_speechbert import SpeechBertConfig
from .conformer_speechbert import ConformerLayer
from .padding_speechbert import FrontendPast, length_mask, output_lengths, pad_time, reverse, zero_padding

RNN_LAYERS = 2
CHANNELS_2D = 64  # feature maps of the convolutions over time and frequency


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
    def dtype(self) -> torch.dtype:
        """Type that it computes in: its norm's, since quantisation gives the weights of other layers other types."""
        return self.output_norm.weight.dtype

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
    """Stacked frames as in `StackFrontend`, then two layers of LSTM over the steps.

    The recurrence runs both ways, or forwards only with causal attention. Backwards, each utterance is read from its
    own last step. Packed sequences would do the same, but torch has no fused LSTM for them on a CPU.
    """

    def __init__(self, config: SpeechBertConfig) -> None:
        super().__init__(config)
        directions = 1 if config.attention == "causal" else 2
        if config.hidden_size % directions:
            raise ValueError(f"front-end rnn needs an even hidden size; the checkpoint's is {config.hidden_size}")
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.LSTM(config.hidden_size, config.hidden_size // directions, batch_first=True)
                for _ in range(directions)
            )
            for _ in range(RNN_LAYERS)
        )

    def encode(
        self, features: torch.Tensor, frame_lengths: torch.Tensor, past: FrontendPast | None = None
    ) -> torch.Tensor:
        """Map `(batch, frames, mels)` to `(batch, steps, hidden)`; with a past, the frames that follow it."""
        hidden = super().encode(features, frame_lengths)
        lengths = output_lengths(frame_lengths, self.subsampling)
        for onwards, *backwards in self.layers:
            outputs, state = onwards(hidden, None if past is None else past.layers.get(onwards))
            if past is not None:
                past.layers[onwards] = state
            for layer in backwards:
                outputs = torch.cat([outputs, reverse(layer(reverse(hidden, lengths))[0], lengths)], dim=-1)
            hidden = self.dropout(outputs)
        return hidden


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
