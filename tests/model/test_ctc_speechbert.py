"""CTC's loss against enumeration, what labels it refuses, consistency of views, blanks behind the end."""

import itertools

import pytest
import torch

from hf_speechft import SpeechBertConfig
from hf_speechft.model.ctc_speechbert import blank_padding, check_labels, ctc_loss, inconsistency, needed_steps
from tests.model.tiny_text_models import bert_config

VOCAB = 12
LABELS = torch.tensor([[3, 4, 4], [5, 6, -100]])


def make_config(**fields):
    return SpeechBertConfig(**{"backbone_config": bert_config(), "vocab_size": VOCAB, **fields})


def collapse(path, blank=0):
    """What CTC reads from one unit for each step: repeats become one, then blanks go."""
    return tuple(unit for unit, _ in itertools.groupby(path) if unit != blank)


def enumerated_loss(log_probs, labels):
    """Negative log of the summed probability of every path that reads as the labels."""
    steps, vocab = log_probs.shape
    paths = [path for path in itertools.product(range(vocab), repeat=steps) if collapse(path) == tuple(labels)]
    scores = [sum(log_probs[step, unit] for step, unit in enumerate(path)) for path in paths]
    return -torch.logsumexp(torch.stack(scores), dim=0)


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 1], [2, 1, 2], [2, 2, 1]])
def test_ctc_loss_matches_enumeration_of_alignments(labels):
    torch.manual_seed(3)
    logits = torch.randn(1, 5, 3)
    config = make_config(vocab_size=3, ctc_loss_reduction="sum")
    loss = ctc_loss(logits, torch.tensor([5]), torch.tensor([labels + [-100]]), config)
    torch.testing.assert_close(loss, enumerated_loss(logits[0].log_softmax(dim=-1), labels))


@pytest.mark.parametrize(
    ("labels", "needed"),
    [([[4, 5, 6]], [3]), ([[4, 4, 4]], [5]), ([[4, 4, -100], [7, -100, -100], [-100] * 3], [3, 1, 0])],
)
def test_needed_steps_counts_tokens_and_repeats(labels, needed):
    assert needed_steps(torch.tensor(labels)).tolist() == needed


def test_check_labels_many_short_rows_names_five():
    labels = torch.full((9, 4), 3)
    with pytest.raises(ValueError, match=r"9 of 9 utterances .*row 4: 2 steps for 7, a step"):
        check_labels(labels, labels >= 0, torch.full((9,), 2), blank=0, vocab_size=VOCAB)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_inconsistency_matches_kullback_leibler_step_by_step(reduction):
    torch.manual_seed(3)
    logits, other = torch.randn(2, 2, 15, VOCAB)
    total = torch.tensor(0.0)
    for row, (steps, tokens) in enumerate([(15, 3), (10, 2)]):
        for step in range(steps):
            p, q = logits[row, step].softmax(-1), other[row, step].softmax(-1)
            symmetric = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
            total += symmetric / (2 * tokens) if reduction == "mean" else symmetric
    config = make_config(ctc_loss_reduction=reduction)
    torch.testing.assert_close(inconsistency(logits, other, torch.tensor([15, 10]), LABELS, config), total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("blank", [0, 2])
def test_blank_padding_leaves_the_blank_alone_behind_the_end(blank, dtype):
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, 2.0]]], dtype=dtype).expand(2, -1, -1)
    padded = blank_padding(logits, torch.tensor([3, 1]), blank)
    assert padded.dtype == dtype
    assert torch.equal(padded[0], logits[0])
    assert torch.equal(padded[1, :1], logits[1, :1])
    probabilities = padded[1, 1:].softmax(-1)
    assert probabilities.tolist() == [[float(unit == blank) for unit in range(3)]] * 2
