"""Forced alignment: when each token, character and word of a known transcript was spoken.

The most probable path through the states `blank, token 0, blank, token 1, ..., blank`: state 2k is the blank before
token k, state 2k + 1 is token k. The blank between two different tokens may be left out; between two equal ones it
may not, because CTC would read them as one.

Source: Graves et al. 2006, "Connectionist temporal classification", section 4.1, with maximum in place of sum. The
paths are those of `torchaudio.functional.forced_align`, which is the reference in the tests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .compiled import compiled
from .log_probs import check_log_probs
from .transcript import TimedWord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Alignment", "TokenSpan", "align_tokens", "align_words", "viterbi_path", "word_spans"]

MAX_TABLE_BYTES = 2**31  # an hour of speech in characters would need five times as much


@dataclass(frozen=True)
class TokenSpan:
    """The steps of one token, from `start_step` up to and without `end_step`.

    Args:
        token_id: Row of the vocabulary.
        start_step: First step of the token.
        end_step: Step after its last.
        log_prob: Mean log-probability of the token over its steps.
    """

    token_id: int
    start_step: int
    end_step: int
    log_prob: float


@dataclass(frozen=True)
class Alignment:
    """The words of a transcript and its characters without spaces, with their times.

    A confidence is the mean probability, 0 to 1, of the tokens over the steps that they take.
    """

    words: list[TimedWord]
    characters: list[TimedWord]


@compiled
def viterbi_path(log_probs: np.ndarray, tokens: np.ndarray, blank: int) -> np.ndarray:
    """Find the most probable alignment of a token sequence.

    One byte is kept for each step and state; scores are summed in float64. Where two paths are equally probable, the
    one that stays in a state is taken. Arguments are not checked; `align_tokens` checks them.

    Args:
        log_probs: `(steps, vocab)`.
        tokens: Ids `(tokens,)` without blanks.
        blank: Id of the blank.

    Returns:
        State of each step, int32 `(steps,)`; all -1 where no path has a probability above 0.
    """
    steps, states = len(log_probs), 2 * len(tokens) + 1
    path = np.full(steps, -1, np.int32)
    if steps == 0:
        return path
    score = np.full(states, -np.inf)
    advance = np.zeros((steps, states), np.int8)  # states by which the best path to here advanced
    score[0] = log_probs[0, blank]
    if states > 1:
        score[1] = log_probs[0, tokens[0]]
    for step in range(1, steps):
        # Only states that the start reaches and that reach the end. Downwards: lower states still hold the last step.
        for state in range(min(states - 1, 2 * step + 1), max(0, states - 2 * (steps - step)) - 1, -1):
            best, taken = score[state], 0
            if state > 0 and score[state - 1] > best:
                best, taken = score[state - 1], 1
            token = state // 2
            is_token = state % 2 == 1
            if is_token and token > 0 and tokens[token] != tokens[token - 1] and score[state - 2] > best:
                best, taken = score[state - 2], 2
            score[state] = best + log_probs[step, tokens[token] if is_token else blank]
            advance[step, state] = taken
    state = states - 1
    if states > 1 and score[states - 2] > score[states - 1]:
        state = states - 2
    if score[state] == -np.inf:
        return path
    for step in range(steps - 1, -1, -1):
        path[step] = state
        state -= advance[step, state]
    return path


@compiled
def word_spans(states: np.ndarray, word_of_token: np.ndarray, words: int) -> np.ndarray:
    """First step, and step after the last, of each word in an alignment.

    Args:
        states: `(steps,)`, as `viterbi_path` gives them.
        word_of_token: `(tokens,)` word that each token is part of, -1 for none.
        words: How many there are.

    Returns:
        `(words, 2)`; a word that one token wrote together with the one before it has that one's steps.
    """
    spans = np.zeros((words, 2), np.int64)
    for step in range(len(states)):
        word = word_of_token[states[step] // 2] if states[step] % 2 == 1 and states[step] > 0 else -1
        if word >= 0:
            if spans[word, 1] == 0:
                spans[word, 0] = step
            spans[word, 1] = step + 1
    for word in range(1, words):
        if spans[word, 1] == 0:
            spans[word] = spans[word - 1]
    return spans


def align_tokens(log_probs: np.ndarray | torch.Tensor, token_ids: Sequence[int], blank_id: int) -> list[TokenSpan]:
    """Find the steps of each token of a known sequence.

    Args:
        log_probs: `(steps, vocab)`, natural logarithms whose rows are normalised.
        token_ids: Ids `(tokens,)` without blanks; none gives no spans.
        blank_id: Id of the blank.

    Returns:
        A span for each token, in order.

    Raises:
        ValueError: The log-probabilities are not what they should be (see `check_log_probs`), an id is outside the
            vocabulary or the blank, or the tokens cannot be aligned: `steps < tokens + repeats`, or each path has
            probability 0.

    >>> log_probs = np.log([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    >>> [(span.token_id, span.start_step, span.end_step) for span in align_tokens(log_probs, [1, 2], blank_id=0)]
    [(1, 1, 3), (2, 3, 4)]
    """
    log_probs = check_log_probs(log_probs)
    tokens = np.asarray(token_ids, np.int64).reshape(-1)
    _check_tokens(tokens, blank_id, *log_probs.shape)
    path = viterbi_path(log_probs, tokens, blank_id)
    if len(tokens) and path[0] < 0:
        raise ValueError(
            f"each alignment of the {len(tokens)} tokens with the {len(path)} steps has probability 0; check that the "
            "transcript belongs to the recording and that no token is masked with -inf"
        )
    states = 2 * np.arange(len(tokens)) + 1
    starts, ends = np.searchsorted(path, states, "left").tolist(), np.searchsorted(path, states, "right").tolist()
    return [
        TokenSpan(token, start, end, float(log_probs[start:end, token].mean(dtype=np.float64)))
        for token, start, end in zip(tokens.tolist(), starts, ends, strict=True)
    ]


def align_words(
    log_probs: np.ndarray | torch.Tensor, text: str, tokenizer: "PreTrainedTokenizerBase", step_s: float
) -> Alignment:
    """Find when each word and each character of a known transcript was spoken.

    Args:
        log_probs: `(steps, vocab)`, natural logarithms whose rows are normalised.
        text: The transcript, written as the transcripts that the model was trained on.
        tokenizer: A CTC tokenizer whose `decode` gives offsets, such as `SpeechBertTokenizer` or
            `Wav2Vec2CTCTokenizer`. The blank is its padding token.
        step_s: Seconds from one step to the next.

    Returns:
        Words and characters with times and confidences.

    Raises:
        ValueError: The transcript is empty or has characters that the tokenizer does not know, or `align_tokens`
            refuses it.
    """
    log_probs = check_log_probs(log_probs)
    if not text.strip():
        raise ValueError("the transcript is empty; alignment needs the words that were spoken")
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id in token_ids:
        raise ValueError(
            f"the transcript has characters that the model does not know: {_unknown_characters(text, tokenizer)}; "
            "write it as the model's training transcripts are written"
        )
    path = np.full(len(log_probs), tokenizer.pad_token_id)
    for span in align_tokens(log_probs, token_ids, tokenizer.pad_token_id):
        path[span.start_step : span.end_step] = span.token_id
    probabilities = np.exp(log_probs[np.arange(len(path)), path].astype(np.float64))
    probabilities[path == tokenizer.pad_token_id] = np.nan  # a blank is no evidence for the character before it
    decoded = tokenizer.decode(path.tolist(), output_char_offsets=True, output_word_offsets=True)

    def timed(written: str, offset: dict) -> TimedWord:
        start, end = offset["start_offset"], offset["end_offset"]  # fractions of steps in tokens of several characters
        confidence = float(np.nanmean(probabilities[math.floor(start) : math.ceil(end)]))
        return TimedWord(written, start * step_s, end * step_s, confidence)

    characters = [offset for offset in decoded["char_offsets"] if not offset["char"].isspace()]
    return Alignment(
        words=[timed(offset["word"], offset) for offset in decoded["word_offsets"]],
        characters=[timed(offset["char"], offset) for offset in characters],
    )


def _check_tokens(tokens: np.ndarray, blank_id: int, steps: int, vocab: int) -> None:
    """Refuse ids that are no tokens of the vocabulary, and more of them than the steps have room for."""
    if not 0 <= blank_id < vocab:
        raise ValueError(f"blank_id is {blank_id}; log_probs has {vocab} units, 0 to {vocab - 1}")
    outside = tokens[(tokens < 0) | (tokens >= vocab)]
    if len(outside):
        raise ValueError(f"token id {outside[0]} is outside the vocabulary; log_probs has {vocab} units")
    if (tokens == blank_id).any():
        raise ValueError(f"the token ids hold the blank, {blank_id}; leave it out, alignment puts blanks in")
    repeats = int((tokens[1:] == tokens[:-1]).sum())
    if steps < len(tokens) + repeats:
        raise ValueError(
            f"the recording has {steps} steps but its transcript needs {len(tokens) + repeats} ({len(tokens)} tokens "
            f"and a blank between each of {repeats} repeats); check that they belong together, or use a model with "
            "more steps a second"
        )
    table_bytes = steps * (2 * len(tokens) + 1)
    if table_bytes > MAX_TABLE_BYTES:
        raise ValueError(
            f"aligning {len(tokens)} tokens with {steps} steps needs {table_bytes / 1e9:.1f} GB of memory, the limit "
            f"is {MAX_TABLE_BYTES / 1e9:.1f} GB; align the recording in parts"
        )


def _unknown_characters(text: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    characters = sorted({character for character in text if not character.isspace()})
    return " ".join(
        character
        for character in characters
        if tokenizer.unk_token_id in tokenizer(character, add_special_tokens=False)["input_ids"]
    )
