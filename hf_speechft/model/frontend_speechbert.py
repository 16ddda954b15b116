"""Audio front-ends: feature frames in, one vector per transformer step out, in place of word embeddings.

A front-end is a module `(features, frame_lengths) -> (batch, steps, hidden)`. Each keeps two promises: it gives
`output_lengths(frame_lengths, subsampling)` steps, and what stands behind an utterance's last frame changes nothing.
To add one, write the class and name it in `FRONTENDS`.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .configuration_speechbert import SpeechBertConfig

RNN_LAYERS = 2


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


class Conv1dFrontend(nn.Module):
    """Convolutions over time of kernel 3 and stride 2, one for each halving of the frame rate.

    With causal attention the kernels see the present and the two past inputs; otherwise one input on either side.
    Normalisation is over channels only, so that no statistic mixes utterances or padding.
    """

    def __init__(self, config: SpeechBertConfig) -> None:
        super().__init__()
        self.left_padding, self.right_padding = (2, 0) if config.attention == "causal" else (1, 1)
        channels = [config.num_mel_bins] + [config.hidden_size] * (config.subsampling.bit_length() - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel_size=3, stride=2)
            for inputs, outputs in zip(channels, channels[1:], strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size) for _ in self.convolutions)
        self.dropout = nn.Dropout(config.frontend_dropout)
        self.projection = nn.Linear(config.hidden_size, config.embedding_size)
        self.output_norm = nn.LayerNorm(config.embedding_size)

    def forward(self, features: torch.Tensor, frame_lengths: torch.Tensor) -> torch.Tensor:
        """Map `(batch, frames, mels)` to `(batch, steps, hidden)`."""
        hidden, lengths = features, frame_lengths
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = hidden * length_mask(lengths, hidden.shape[1])[..., None].to(hidden.dtype)
            hidden = nn.functional.pad(hidden.transpose(1, 2), (self.left_padding, self.right_padding))
            hidden = convolution(hidden).transpose(1, 2)  # (batch, ceil(frames / 2), hidden)
            hidden = self.dropout(nn.functional.gelu(norm(hidden)))
            lengths = output_lengths(lengths, 2)
        return self.output_norm(self.projection(hidden))  # (batch, steps, hidden)


class RnnFrontend(nn.Module):
    """`subsampling` frames are stacked into one step, then two layers of gated recurrent units run over the steps.

    The recurrence runs both ways, or forwards only with causal attention.
    """

    def __init__(self, config: SpeechBertConfig) -> None:
        super().__init__()
        self.subsampling = config.subsampling
        directions = 1 if config.attention == "causal" else 2
        if config.hidden_size % directions:
            raise ValueError(f"front-end rnn needs an even hidden size; the checkpoint's is {config.hidden_size}")
        self.stacking = nn.Linear(config.num_mel_bins * config.subsampling, config.hidden_size)
        self.rnn = nn.GRU(
            config.hidden_size,
            config.hidden_size // directions,
            num_layers=RNN_LAYERS,
            batch_first=True,
            bidirectional=directions == 2,
            dropout=config.frontend_dropout,
        )
        self.dropout = nn.Dropout(config.frontend_dropout)
        self.projection = nn.Linear(config.hidden_size, config.embedding_size)
        self.output_norm = nn.LayerNorm(config.embedding_size)

    def forward(self, features: torch.Tensor, frame_lengths: torch.Tensor) -> torch.Tensor:
        """Map `(batch, frames, mels)` to `(batch, steps, hidden)`."""
        batch, frames, mels = features.shape
        steps = output_lengths(frames, self.subsampling)
        hidden = features * length_mask(frame_lengths, frames)[..., None].to(features.dtype)
        hidden = nn.functional.pad(hidden, (0, 0, 0, steps * self.subsampling - frames))
        hidden = hidden.reshape(batch, steps, self.subsampling * mels)
        hidden = self.dropout(nn.functional.gelu(self.stacking(hidden)))  # (batch, steps, hidden)
        step_lengths = output_lengths(frame_lengths, self.subsampling)
        packed = pack_padded_sequence(hidden, step_lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=steps)
        return self.output_norm(self.projection(self.dropout(hidden)))  # (batch, steps, hidden)


FRONTENDS: dict[str, type[nn.Module]] = {"conv1d": Conv1dFrontend, "rnn": RnnFrontend}


def build_frontend(config: SpeechBertConfig) -> nn.Module:
    """Make the front-end that `config.frontend` names.

    Raises:
        ValueError: No front-end has that name.
    """
    if config.frontend not in FRONTENDS:
        raise ValueError(f"frontend is {config.frontend!r}; it needs to be one of {', '.join(FRONTENDS)}")
    return FRONTENDS[config.frontend](config)


@torch.no_grad()
def match_embedding_scale(frontend: nn.Module, embeddings: torch.Tensor) -> None:
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
