"""CTC: what labels it can align, its loss, the consistency of two views, and blanks behind an utterance's end."""

import torch
from torch import nn

from .configuration_speechbert import SpeechBertConfig
from .padding_speechbert import length_mask


def ctc_loss(
    logits: torch.Tensor, step_lengths: torch.Tensor, labels: torch.Tensor, config: SpeechBertConfig
) -> torch.Tensor:
    """CTC loss in float32 (Graves et al., 2006), summed or averaged as the configuration says.

    Args:
        logits: `(batch, steps, vocab)`.
        step_lengths: `(batch,)`.
        labels: `(batch, tokens)` unit ids, padded with -100.
        config: Names the blank, the vocabulary's size and the reduction.

    Returns:
        A scalar.

    Raises:
        ValueError: As `check_labels`.
    """
    is_label = labels >= 0
    blank = config.pad_token_id
    check_labels(labels, is_label, step_lengths, blank, config.vocab_size)
    log_probs = nn.functional.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1)
    with torch.backends.cudnn.flags(enabled=False):
        return nn.functional.ctc_loss(
            log_probs,  # (steps, batch, vocab)
            labels.masked_fill(~is_label, blank),
            step_lengths,
            is_label.sum(dim=-1),
            blank=blank,
            reduction=config.ctc_loss_reduction,
        )


def inconsistency(
    logits: torch.Tensor,
    other: torch.Tensor,
    step_lengths: torch.Tensor,
    labels: torch.Tensor,
    config: SpeechBertConfig,
) -> torch.Tensor:
    """How far two views of the same utterances disagree: CR-CTC's loss (Yao et al., 2024, equation 5).

    Each view's distributions are the target of the other's, by Kullback-Leibler divergence in float32.

    Args:
        logits: Of one view, `(batch, steps, vocab)`.
        other: Of the other view, of the same shape.
        step_lengths: `(batch,)`.
        labels: `(batch, tokens)`; `mean` divides an utterance's sum by their number, as the CTC loss does.
        config: Names the reduction.

    Returns:
        A scalar, reduced as the CTC loss is.
    """
    views = [nn.functional.log_softmax(view, dim=-1, dtype=torch.float32) for view in (logits, other)]
    divergence = sum(
        nn.functional.kl_div(view, target.detach(), log_target=True, reduction="none").sum(dim=-1) / 2
        for view, target in (views, views[::-1])
    )  # (batch, steps)
    sums = (divergence * length_mask(step_lengths, logits.shape[1])).sum(dim=-1)
    if config.ctc_loss_reduction == "sum":
        return sums.sum()
    return (sums / (labels >= 0).sum(dim=-1).clamp(min=1)).mean()


def check_labels(
    labels: torch.Tensor, is_label: torch.Tensor, step_lengths: torch.Tensor, blank: int, vocab_size: int
) -> None:
    """Refuse labels that CTC cannot align, which would make the loss infinite or silently zero.

    Args:
        labels: `(batch, tokens)`, padded on the right with negative numbers.
        is_label: `(batch, tokens)`, True where `labels` is no padding.
        step_lengths: `(batch,)`.
        blank: Id of the blank.
        vocab_size: Number of units.

    Raises:
        ValueError: Naming the rows of the batch and what they need.
    """
    wrong = is_label & ((labels >= vocab_size) | (labels == blank))
    if wrong.any():
        raise ValueError(
            f"labels hold {sorted(set(labels[wrong].tolist()))}; they need to be unit ids below {vocab_size} other "
            f"than the blank {blank}. Make them with the processor that belongs to this model."
        )
    needed = needed_steps(labels)
    too_short = (needed > step_lengths).nonzero()[:, 0].tolist()
    if too_short:
        rows = "; ".join(f"row {row}: {step_lengths[row]} steps for {needed[row]}" for row in too_short[:5])
        raise ValueError(
            f"{len(too_short)} of {len(labels)} utterances are too short for their labels ({rows}, a step between "
            "equal neighbours included). Drop them (hf_speechft.data.filter_corpus does), or use a smaller "
            "subsampling or the native vocabulary."
        )


def needed_steps(labels: torch.Tensor) -> torch.Tensor:
    """Steps that CTC needs at least: one for each token, one more between equal neighbours.

    Args:
        labels: `(batch, tokens)`, padded on the right with negative numbers.

    Returns:
        `(batch,)`.

    >>> needed_steps(torch.tensor([[5, 7, 7], [5, -100, -100]])).tolist()
    [4, 1]
    """
    is_label = labels >= 0
    repeats = (labels[:, 1:] == labels[:, :-1]) & is_label[:, 1:]
    return is_label.sum(dim=-1) + repeats.sum(dim=-1)


def blank_padding(logits: torch.Tensor, step_lengths: torch.Tensor, blank: int) -> torch.Tensor:
    """Leave the blank as the only unit behind an utterance's end, for decoders that know no lengths.

    transformers' pipeline is one: it would read what the model makes of padding.

    Args:
        logits: `(batch, steps, vocab)`.
        step_lengths: `(batch,)`.
        blank: Id of the blank.

    Returns:
        Logits of the same shape.
    """
    is_padding = ~length_mask(step_lengths, logits.shape[1])[..., None]  # (batch, steps, 1)
    is_unit = torch.arange(logits.shape[-1], device=logits.device) != blank
    return logits.masked_fill(is_padding & is_unit, torch.finfo(logits.dtype).min)
