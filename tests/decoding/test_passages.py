"""Passages of a long recording: where they are cut, and that the search of them is that of the whole."""

import numpy as np
import pytest
import torch

from hf_speechft.decoding import CTCDecoder
from hf_speechft.decoding.longform import _timed_words
from hf_speechft.decoding.passages import _pause, search_passages

UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz", "▁the", "ing"]
SENTENCES = ["ing the red zebra", "sing", "the king swings on", "a", "thin ink the sink", "bring it", "one two three"]


def spoken_log_probs(rng, sentences, word_gap_steps=1):
    """Noisy log-probabilities `(steps, vocab)` of sentences between long pauses, and the pauses `(first, end)`."""
    best, pauses = [], []
    for sentence in sentences:
        for unit in "▁".join(["", *sentence.split()]):
            best += [UNITS.index(unit)] * int(rng.integers(1, 3)) + [0] * word_gap_steps
        pauses.append((len(best), len(best) + 40))
        best += [0] * 40
    logits = rng.standard_normal((len(best), len(UNITS)))
    logits[np.arange(len(best)), best] += 8.0
    return torch.from_numpy(logits).float().log_softmax(dim=-1).numpy(), pauses


@pytest.mark.parametrize("piece_steps", [1, 37, 333, 10_000])
def test_search_passages_match_one_whole_search(piece_steps):
    """Words and times are those of the whole; each cut is inside a pause, so nothing is lost or doubled there."""
    decoder = CTCDecoder(UNITS, 0, beam_width=4)
    rng = np.random.default_rng(piece_steps)
    sentences = [SENTENCES[place] for place in rng.choice(len(SENTENCES), 25)]
    log_probs, pauses = spoken_log_probs(rng, sentences)
    pieces = [log_probs[start : start + piece_steps] for start in range(0, len(log_probs), piece_steps)]
    found = list(search_passages(pieces, decoder, 250))
    words = [word for first_step, hypothesis in found for word in _timed_words(hypothesis, first_step, 0.04)]
    assert [word.text for word in words] == " ".join(sentences).split()
    whole = decoder.decode(log_probs[None])[0][0]
    expected = [
        (word.text, pytest.approx(word.start_s), pytest.approx(word.end_s)) for word in _timed_words(whole, 0, 0.04)
    ]
    assert [(word.text, word.start_s, word.end_s) for word in words] == expected
    cuts = [first_step for first_step, _ in found] + [len(log_probs)]
    assert cuts[0] == 0
    assert len(cuts) > 6
    assert all(0 < end - start <= 250 for start, end in zip(cuts, cuts[1:], strict=False))
    assert all(any(first < cut < end for first, end in pauses) for cut in cuts[1:-1])


def test_search_recording_of_one_passage_is_not_cut():
    decoder = CTCDecoder(UNITS, 0, beam_width=4)
    log_probs, _ = spoken_log_probs(np.random.default_rng(0), SENTENCES)
    assert len(list(search_passages([log_probs], decoder, len(log_probs)))) == 1
    assert len(list(search_passages([log_probs], decoder, len(log_probs) - 1))) == 2


@pytest.mark.parametrize(
    ("blank_probs", "expected"),
    [
        ([0.9] * 4 + [0.1] * 6, 5),  # the pause in the first half does not count; all are alike: the first of them
        ([0.1] * 5 + [0.1, 0.9, 0.9, 0.9, 0.1], 7),  # middle of 6, 7, 8
        ([0.1] * 5 + [0.99, 0.1, 0.6, 0.6, 0.1], 8),  # a long pause rather than a sure one
        ([0.1] * 5 + [0.1, 0.1, 0.4, 0.1, 0.1], 7),  # no pause: where blank is likeliest
        ([0.1] * 8 + [0.9, 0.9], 9),  # a pause that goes on
        ([0.9] * 10, 7),
        ([0.1, 0.2], 1),
    ],
)
def test_pause_is_the_middle_of_the_longest_in_the_second_half(blank_probs, expected):
    assert _pause(np.log(blank_probs)) == expected
