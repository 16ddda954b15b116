"""Beam search over recordings of any length: passage by passage, each cut off in a pause.

log-probabilities (steps, vocab), in pieces -> passages of at most 30 s -> best hypothesis of each
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .decoder import CTCDecoder, Hypothesis

__all__ = ["PASSAGE_S", "search_passages"]

PASSAGE_S = 30.0  # what a beam search takes at once, at most


def search_passages(
    pieces: Iterable[np.ndarray], decoder: "CTCDecoder", longest: int
) -> "Iterator[tuple[int, Hypothesis]]":
    """Search passage by passage, as pieces of log-probabilities come, so that memory does not grow with the recording.

    Args:
        pieces: `(steps, vocab)` each, which follow one another.
        decoder: The beam search.
        longest: Steps that a passage has at most; it ends in a pause.

    Yields:
        First step and best hypothesis of each passage.

    Raises:
        ValueError: The recording is longer than a passage, and the decoder has phrases.
    """
    waiting, first_step = [], 0
    for piece in pieces:
        waiting.append(piece)
        while sum(map(len, waiting)) > longest:
            if decoder.phrases is not None:
                raise ValueError(
                    f"the recording is longer than {PASSAGE_S:g} s, and with phrases all of it has to be one of them; "
                    "cut it into a recording for each utterance, or leave the phrases out"
                )
            log_probs = np.concatenate(waiting)
            cut = _pause(log_probs[: longest + 1, decoder.blank_id])
            yield first_step, decoder.decode(log_probs[None, :cut])[0][0]
            waiting, first_step = [log_probs[cut:]], first_step + cut
    if waiting:
        yield first_step, decoder.decode(np.concatenate(waiting)[None])[0][0]


def _pause(blank_log_probs: np.ndarray) -> int:
    """Middle of the longest pause in the second half of a passage: of the most steps in which blank is likely.

    Where there is none, the step at which blank is likeliest.
    """
    half = len(blank_log_probs) // 2
    is_pause = blank_log_probs[half:] > np.log(0.5)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_pause, [False]])))
    if len(edges) == 0:
        return half + int(blank_log_probs[half:].argmax())
    starts, ends = edges[::2], edges[1::2]
    longest = int((ends - starts).argmax())
    return half + int(starts[longest] + ends[longest]) // 2
