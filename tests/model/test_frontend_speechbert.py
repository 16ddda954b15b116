"""Audio front-ends: how many steps they make, what each step hears, and that padding is not heard."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import BertConfig

from hf_speechft import SpeechBertConfig
from hf_speechft.model.frontend_speechbert import (
    FRONTENDS,
    StackFrontend,
    build_frontend,
    match_embedding_scale,
    output_lengths,
)
from hf_speechft.model.padding_speechbert import FrontendPast, zero_padding

MELS = 6


def make_frontend(name="conv1d", subsampling=4, attention="bidirectional", hidden=16, **fields):
    torch.manual_seed(0)
    text_config = BertConfig(hidden_size=hidden, num_attention_heads=1)
    config = SpeechBertConfig(
        backbone_config=text_config,
        num_mel_bins=MELS,
        frontend=name,
        subsampling=subsampling,
        attention=attention,
        **fields,
    )
    return build_frontend(config).eval()


every_frontend = pytest.mark.parametrize("name", sorted(FRONTENDS))
every_number_of_adapters = pytest.mark.parametrize("adapter_layers", [0, 2])
every_subsampling = pytest.mark.parametrize("subsampling", [2, 4, 8])
every_attention = pytest.mark.parametrize("attention", ["bidirectional", "causal"])


@every_number_of_adapters
@every_attention
@every_subsampling
@every_frontend
def test_frontend_makes_output_lengths_steps(name, subsampling, attention, adapter_layers):
    frontend = make_frontend(name, subsampling, attention, adapter_layers=adapter_layers)
    for frames in range(1, 2 * subsampling + 3):
        steps = frontend(torch.randn(2, frames, MELS), torch.tensor([frames, 1]))
        assert steps.shape == (2, output_lengths(frames, subsampling), 16)
        assert torch.isfinite(steps).all()


@every_number_of_adapters
@every_attention
@every_subsampling
@every_frontend
def test_frontend_is_invariant_to_padding_and_what_it_holds(name, subsampling, attention, adapter_layers):
    frontend = make_frontend(name, subsampling, attention, adapter_layers=adapter_layers)
    torch.manual_seed(1)
    for frames in range(1, 2 * subsampling + 3):
        clip = torch.randn(1, frames, MELS)
        padded = torch.cat([clip, 100 * torch.randn(1, 13, MELS)], dim=1)
        batch = torch.cat([torch.randn(1, frames + 13, MELS), padded])
        with torch.no_grad():
            alone = frontend(clip, torch.tensor([frames]))
            together = frontend(batch, torch.tensor([frames + 13, frames]))[1:]
        torch.testing.assert_close(together[:, : alone.shape[1]], alone, atol=1e-5, rtol=0)


def frames_heard(frontend, step, frames):
    """Indices of the first and the last frame that a step depends on, by differentiation."""
    features = torch.randn(1, frames, MELS, requires_grad=True)
    # The sum alone would not depend on the input, since layer normalisation fixes it.
    frontend(features, torch.tensor([frames]))[0, step].pow(3).sum().backward()
    heard = features.grad[0].abs().sum(dim=-1).nonzero()[:, 0].tolist()
    return heard[0], heard[-1]


@pytest.mark.parametrize("name", ["conv1d", "conv2d"])
@every_subsampling
def test_convolutions_bidirectional_hear_their_frames_and_as_many_before(name, subsampling):
    frontend = make_frontend(name, subsampling)
    step, ahead = 5, subsampling - 1
    first = subsampling * step
    assert frames_heard(frontend, step, 12 * subsampling) == (first - ahead, first + ahead)


@pytest.mark.parametrize("name", ["conv1d", "conv2d"])
@every_subsampling
def test_convolutions_causal_hear_no_frame_after_their_first(name, subsampling):
    frontend = make_frontend(name, subsampling, "causal")
    step, before = 5, 2 * (subsampling - 1)
    first = subsampling * step
    assert frames_heard(frontend, step, 12 * subsampling) == (first - before, first)


@every_subsampling
def test_rnn_causal_hears_the_past_and_its_own_frames(subsampling):
    frontend = make_frontend("rnn", subsampling, "causal")
    assert frames_heard(frontend, 5, 12 * subsampling) == (0, 6 * subsampling - 1)


def test_rnn_bidirectional_hears_everything():
    assert frames_heard(make_frontend("rnn", 4), 5, 48) == (0, 47)


@every_attention
@every_subsampling
def test_stack_hears_its_own_frames(subsampling, attention):
    first = 5 * subsampling
    frontend = make_frontend("stack", subsampling, attention)
    assert frames_heard(frontend, 5, 12 * subsampling) == (first, first + subsampling - 1)


@pytest.mark.parametrize("adapter_layers", [0, 1])
@every_frontend
def test_lookahead_hears_as_much_more_of_what_follows(name, adapter_layers):
    options = {"attention": "causal", "adapter_layers": adapter_layers}
    ahead = [
        frames_heard(make_frontend(name, lookahead_ms=lookahead_ms, **options), 5, 4 * 12)[1]
        for lookahead_ms in (0, 40, 120)
    ]
    assert [last - ahead[0] for last in ahead] == [0, 4, 12]


@every_frontend
def test_lookahead_is_invariant_to_padding_and_what_it_holds(name):
    frontend = make_frontend(name, attention="causal", lookahead_ms=80, adapter_layers=1)
    torch.manual_seed(1)
    for frames in (1, 4, 9, 30):
        clip = torch.randn(1, frames, MELS)
        padded = torch.cat([clip, 100 * torch.randn(1, 13, MELS)], dim=1)
        with torch.no_grad():
            alone = frontend(clip, torch.tensor([frames]))
            together = frontend(padded, torch.tensor([frames]))
        assert alone.shape[1] == output_lengths(frames, 4)
        torch.testing.assert_close(together[:, : alone.shape[1]], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("adapter_layers", "lookahead"), [(0, 0), (2, 0), (1, 1), (0, 3)])
@every_subsampling
@every_frontend
def test_stream_of_pieces_makes_the_steps_of_the_whole(name, subsampling, adapter_layers, lookahead):
    options = {"adapter_layers": adapter_layers, "lookahead_ms": 10 * subsampling * lookahead}
    frontend = make_frontend(name, subsampling, "causal", **options)
    torch.manual_seed(1)
    for frames in (1, 2 * subsampling - 1, 2 * subsampling, 61):
        features, past, steps, start = torch.randn(2, frames, MELS), FrontendPast(), [], 0
        for size in [1, 0, 2, 7, 1, 1, 1, 1, 20, 3, 30]:
            with torch.no_grad():
                steps.append(frontend.stream(features[:, start : start + size], past, is_last=False))
            start += size
            ready = max(0, (min(start, frames) - frontend.first_step_frames) // subsampling + 1 - lookahead)
            assert sum(piece.shape[1] for piece in steps) == ready
        with torch.no_grad():
            steps.append(frontend.stream(features[:, frames:], past, is_last=True))
            whole = frontend(features, torch.tensor([frames, frames]))
        torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=0)


@every_subsampling
@every_frontend
def test_first_step_hears_as_many_frames_as_it_says(name, subsampling):
    frontend = make_frontend(name, subsampling, "causal")
    assert frames_heard(frontend, 0, 12 * subsampling) == (0, frontend.first_step_frames - 1)


def test_adapters_hear_everything_or_the_past_only():
    frames = 4 * 40
    assert frames_heard(make_frontend("stack", adapter_layers=1), 20, frames) == (0, frames - 1)
    assert frames_heard(make_frontend("stack", attention="causal", adapter_layers=2), 20, frames) == (0, 4 * 21 - 1)


def test_frontend_dropout_is_in_training_only():
    frontend = make_frontend()
    features, lengths = torch.randn(1, 40, MELS), torch.tensor([40])
    assert torch.equal(frontend(features, lengths), frontend(features, lengths))
    frontend.train()
    assert not torch.equal(frontend(features, lengths), frontend(features, lengths))


def test_build_frontend_unknown_name_raises():
    with pytest.raises(ValueError, match="frontend is 'conv3d'; it needs to be one of conv1d, conv2d, rnn, stack"):
        make_frontend("conv3d")


def test_rnn_bidirectional_matches_torchs_lstm_on_packed_sequences():
    frontend = make_frontend("rnn")
    reference = torch.nn.LSTM(16, 8, num_layers=2, bidirectional=True, batch_first=True)
    for index, directions in enumerate(frontend.layers):
        for lstm, suffix in zip(directions, ("", "_reverse"), strict=True):
            for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                weight = getattr(lstm, f"{key}_l0")
                getattr(reference, f"{key}_l{index}{suffix}").data.copy_(weight.data)
    features, frames = torch.randn(3, 48, MELS), torch.tensor([48, 21, 4])
    steps = output_lengths(frames, 4)
    stacked = StackFrontend.encode(frontend, features, frames)
    packed = pack_padded_sequence(stacked, steps, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    found = zero_padding(frontend.encode(features, frames), steps)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_rnn_odd_width_raises():
    with pytest.raises(ValueError, match="front-end rnn needs an even hidden size; the checkpoint's is 15"):
        make_frontend("rnn", hidden=15)


def test_rnn_odd_width_causal_makes_steps():
    frontend = make_frontend("rnn", attention="causal", hidden=15)
    assert frontend(torch.randn(1, 8, MELS), torch.tensor([8])).shape == (1, 2, 15)


@every_frontend
def test_match_embedding_scale_output_has_embeddings_scale(name):
    frontend = make_frontend(name, hidden=64)
    torch.manual_seed(2)
    embeddings = torch.randn(500, 64) * torch.linspace(0.01, 0.1, 64) + torch.linspace(-0.5, 0.5, 64)
    match_embedding_scale(frontend, embeddings)
    with torch.no_grad():
        steps = frontend(torch.randn(8, 400, MELS), torch.full((8,), 400)).flatten(0, 1)
    # Layer normalisation makes mean 0 and variance 1 over the dimensions of a step; the rest is the embeddings'.
    standard = (steps - embeddings.mean(dim=0)) / embeddings.std(dim=0)
    torch.testing.assert_close(standard.mean(dim=1), torch.zeros(len(steps)), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.pow(2).mean(dim=1), torch.ones(len(steps)), atol=1e-2, rtol=0)
