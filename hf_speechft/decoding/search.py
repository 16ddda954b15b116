"""CTC prefix beam search over one utterance, compiled by numba.

A prefix is a sequence of tokens, a node of a tree that grows with the beam. At each step a prefix in the beam goes on
as itself (blank, or its last token again) or by one more token. The probability of a prefix is that of all its
alignments; one that ends in blank and one that ends in the last token are kept apart, because only behind a blank may
the same token come again (Graves 2012, "Supervised Sequence Labelling with Recurrent Neural Networks", section 7.5;
Hannun et al. 2014, arXiv:1408.2873, algorithm 1).
"""

import math
from typing import NamedTuple

import numpy as np

from .compiled import compiled, compiled_small
from .ngram import score_word
from .prefix import END_OF_SENTENCE, LN_10, NODE, Knowledge, ceiling, close_word, extend, find_child, start_node
from .units import SPACE

__all__ = ["Limits", "Paths", "log_add", "search"]

FIRST_NODES = 512


class Limits(NamedTuple):
    """What the search leaves out.

    Attributes:
        beam_width: Prefixes that are kept from step to step.
        token_min_logp: Tokens of lower log-probability at a step extend no prefix there.
        beam_prune_logp: Prefixes whose score is lower than the best one's by more than this are dropped; 0 or less.
    """

    beam_width: int
    token_min_logp: float
    beam_prune_logp: float


class Paths(NamedTuple):
    """The beam at the utterance's end, best first; without phrases never empty.

    Attributes:
        score: `(paths,)` float64.
        acoustic: `(paths,)` float64, log-probability of the tokens.
        lm: `(paths,)` float64, natural logarithm, unweighted.
        tokens: int32, the tokens of all paths in a row.
        start: `(paths + 1,)` int64.
    """

    score: np.ndarray
    acoustic: np.ndarray
    lm: np.ndarray
    tokens: np.ndarray
    start: np.ndarray


@compiled_small
def log_add(left: float, right: float) -> float:
    """Logarithm of the sum of two numbers given by their logarithms."""
    if left < right:
        left, right = right, left
    if right == -np.inf:
        return left
    return left + math.log1p(math.exp(right - left))


@compiled_small
def _pick_tokens(log_probs: np.ndarray, blank: int, min_logp: float, knowledge: Knowledge, picked: np.ndarray) -> int:
    """Write the tokens that may extend a prefix at this step into `picked`, and return how many they are.

    They are those that are likely enough, and the likeliest of all. Phrases decide by themselves what may follow.
    """
    count, best = 0, -1
    for token in range(len(log_probs)):
        if token == blank or not knowledge.is_searched[token]:
            continue
        if log_probs[token] >= min_logp or knowledge.has_phrases:
            picked[count] = token
            count += 1
        if best < 0 or log_probs[token] > log_probs[best]:
            best = token
    if count == 0 and best >= 0 and log_probs[best] >= log_probs[blank]:
        picked[0], count = best, 1
    return count


@compiled_small
def _stay(
    nodes: np.ndarray, beam: np.ndarray, ends: np.ndarray, log_probs: np.ndarray, blank: int, stays: np.ndarray
) -> None:
    """Probabilities of the prefixes in the beam after one more step, if they stay as they are.

    Args:
        nodes: All prefixes.
        beam: `(width,)` nodes in the beam.
        ends: `(width, 2)` log-probability of each that ends in blank, and in its last token.
        log_probs: `(vocab,)`.
        blank: Id of the blank.
        stays: `(width, 2)`, written.
    """
    for place in range(len(beam)):
        node = nodes[beam[place]]
        stays[place, 0] = log_add(ends[place, 0], ends[place, 1]) + log_probs[blank]
        stays[place, 1] = -np.inf
        if node.token < 0:
            continue
        stays[place, 1] = ends[place, 1] + log_probs[node.token]
        parent_place = nodes[node.parent].place
        if parent_place >= 0:  # the parent becomes this prefix by the prefix's last token
            reached = ends[parent_place, 0]  # behind itself a token comes only after a blank
            if nodes[node.parent].token != node.token:
                reached = log_add(reached, ends[parent_place, 1])
            stays[place, 1] = log_add(stays[place, 1], reached + log_probs[node.token])


@compiled_small
def _push(heap: np.ndarray, score: float) -> None:
    """Replace the smallest number in a heap, which is `heap[0]`."""
    place = 0
    while 2 * place + 1 < len(heap):
        child = 2 * place + 1
        if child + 1 < len(heap) and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= score:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = score


@compiled
def _best_places(scores: np.ndarray, floor: float, width: int) -> np.ndarray:
    """Places of the `width` best scores that are not below `floor`, best first; of equal ones the first."""
    floor = max(floor, np.finfo(np.float64).min)
    places, count = np.empty(len(scores), np.int64), 0
    for place in range(len(scores)):
        if scores[place] >= floor:
            places[count] = place
            count += 1
    places = places[:count]
    return places[np.argsort(-scores[places], kind="mergesort")[:width]]


@compiled
def search(log_probs: np.ndarray, blank: int, limits: Limits, knowledge: Knowledge) -> Paths:
    """Find the best token sequences of one utterance.

    Args:
        log_probs: `(steps, vocab)` float32 log-probabilities.
        blank: Id of the CTC blank.
        limits: What is left out.
        knowledge: Everything else that scores a prefix.

    Returns:
        The beam at the end, with language model and phrases at the sentence's end.
    """
    nodes = np.empty(FIRST_NODES, NODE)
    start_node(nodes[0], knowledge)
    count = 1
    beam, ends = np.zeros(1, np.int32), np.array([[0.0, -np.inf]])
    picked = np.empty(log_probs.shape[1], np.int32)
    for step in range(len(log_probs)):
        row = log_probs[step]
        tokens = picked[: _pick_tokens(row, blank, limits.token_min_logp, knowledge, picked)]
        reached = np.empty((len(beam) * (1 + len(tokens)), 2))  # in blank, in the last token
        scores = np.full(len(reached), -np.inf)
        _stay(nodes, beam, ends, row, blank, reached)
        for place in range(len(beam)):
            scores[place] = log_add(reached[place, 0], reached[place, 1]) + nodes[beam[place]].static
        floor = _go_on(nodes, beam, ends, row, tokens, limits, knowledge, reached, scores)
        best = _best_places(scores, floor, limits.beam_width)
        if count + len(best) > len(nodes):
            more = np.empty(2 * (len(nodes) + len(best)), NODE)
            more[:count] = nodes[:count]
            nodes = more
        beam, ends, count = _next_beam(nodes, count, beam, best, tokens, reached, knowledge)
    return _finish(nodes, beam, ends, knowledge)


@compiled
def _go_on(
    nodes: np.ndarray,
    beam: np.ndarray,
    ends: np.ndarray,
    row: np.ndarray,
    tokens: np.ndarray,
    limits: Limits,
    knowledge: Knowledge,
    reached: np.ndarray,
    scores: np.ndarray,
) -> float:
    """Score each prefix in the beam with each token more; those that cannot be among the best stay at minus infinity.

    Args:
        nodes: All prefixes.
        beam: `(width,)` nodes in the beam.
        ends: `(width, 2)` log-probability of each that ends in blank, and in its last token.
        row: `(vocab,)` log-probabilities of the step.
        tokens: `(tokens,)` that may follow.
        limits: How many will be kept, and how far below the best.
        knowledge: What scores a prefix.
        reached: `(width * (1 + tokens), 2)`, written behind the prefixes that stay as they are.
        scores: `(width * (1 + tokens),)`, likewise.

    Returns:
        The score below which none will be kept.
    """
    width = len(beam)
    best = -np.inf
    for place in range(width):
        best = max(best, scores[place])
    if len(tokens) == 0:
        return best + limits.beam_prune_logp
    kept = np.full(min(limits.beam_width, len(scores)), best + limits.beam_prune_logp)  # a heap of the best scores
    scratch = np.empty(1, NODE)  # a record lives no longer than its array
    acoustic, ceilings = np.empty(width), np.empty((width, 2))
    for place in range(width):
        if scores[place] > kept[0]:
            _push(kept, scores[place])
        acoustic[place] = log_add(ends[place, 0], ends[place, 1])
        for is_space in range(2):
            ceilings[place, is_space] = ceiling(nodes[beam[place]], is_space == 1, knowledge)
    for choice in np.argsort(-row[tokens], kind="mergesort"):  # likely ones first: they leave the others little room
        token = tokens[choice]
        is_space = int(knowledge.pieces[knowledge.piece_start[token]] == SPACE)
        for place in range(width):
            if acoustic[place] + row[token] + ceilings[place, is_space] < kept[0]:
                continue
            parent = nodes[beam[place]]
            # Behind itself a token comes only after a blank.
            score = (ends[place, 0] if parent.token == token else acoustic[place]) + row[token]
            if score == -np.inf:
                continue
            child = find_child(nodes, beam[place], token)
            if child >= 0 and nodes[child].place >= 0:
                continue  # it is in the beam and has been counted
            candidate = width + place * len(tokens) + choice
            reached[candidate, 0], reached[candidate, 1] = -np.inf, score
            if child >= 0:
                scores[candidate] = score + nodes[child].static
            elif extend(parent, token, knowledge, scratch[0]):
                scores[candidate] = score + scratch[0].static
            if scores[candidate] > kept[0]:
                _push(kept, scores[candidate])
                best = max(best, scores[candidate])
    return max(kept[0], best + limits.beam_prune_logp)


@compiled
def _next_beam(
    nodes: np.ndarray,
    count: int,
    beam: np.ndarray,
    best: np.ndarray,
    picked: np.ndarray,
    reached: np.ndarray,
    knowledge: Knowledge,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Make nodes of the candidates that were chosen; return the new beam, its scores and the number of nodes."""
    width = len(beam)
    new_beam, new_ends = np.empty(len(best), np.int32), np.empty((len(best), 2))
    for place in range(width):
        nodes[beam[place]].place = -1
    for place in range(len(best)):
        candidate = best[place]
        if candidate < width:
            node = beam[candidate]
        else:
            parent = beam[(candidate - width) // len(picked)]
            token = picked[(candidate - width) % len(picked)]
            node = find_child(nodes, parent, token)
            if node < 0:
                node, count = count, count + 1
                extend(nodes[parent], token, knowledge, nodes[node])
                nodes[node].parent = parent
                nodes[node].next_sibling = nodes[parent].first_child
                nodes[parent].first_child = node
        new_beam[place] = node
        new_ends[place] = reached[candidate]
    for place in range(len(best)):
        nodes[new_beam[place]].place = place
    return new_beam, new_ends, count


@compiled
def _finish(nodes: np.ndarray, beam: np.ndarray, ends: np.ndarray, knowledge: Knowledge) -> Paths:
    """End each path's sentence, and give the paths in the order of their final scores."""
    scores, acoustic = np.full(len(beam), -np.inf), np.empty(len(beam))
    lm = np.zeros(len(beam))
    for place in range(len(beam)):
        node = nodes[beam[place]]
        acoustic[place] = log_add(ends[place, 0], ends[place, 1])
        if node.is_open and not close_word(node, knowledge):
            continue
        if knowledge.has_phrases and knowledge.phrases.value[node.phrase] < 0:
            continue
        if knowledge.has_lm:
            log10_prob, _ = score_word(knowledge.ngrams, node.lm, END_OF_SENTENCE)
            lm[place] = node.lm_score + log10_prob * LN_10
        scores[place] = acoustic[place] + knowledge.lm_weight * lm[place] + node.bonus
    best = _best_places(scores, -np.inf, len(beam))
    start = np.zeros(len(best) + 1, np.int64)
    for path in range(len(best)):
        start[path + 1] = start[path] + _depth(nodes, beam[best[path]])
    tokens = np.empty(start[-1], np.int32)
    for path in range(len(best)):
        node, place = beam[best[path]], start[path + 1]
        while nodes[node].token >= 0:
            place -= 1
            tokens[place] = nodes[node].token
            node = nodes[node].parent
    return Paths(scores[best], acoustic[best], lm[best], tokens, start)


@compiled_small
def _depth(nodes: np.ndarray, node: int) -> int:
    depth = 0
    while nodes[node].token >= 0:
        node, depth = nodes[node].parent, depth + 1
    return depth
