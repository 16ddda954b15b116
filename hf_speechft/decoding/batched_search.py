"""The prefix beam search of `search.py` for a whole batch at once, in torch: for logits that are on a GPU already.

All prefixes of all utterances take a step together, as tensors `(batch, width)`, their extensions as
`(batch, width, tokens)`. A prefix is known by a 64-bit hash of its tokens instead of by a node of a tree. The scores
and their order are those of `search.py`.

A causal language model of the Hub can stand in the n-gram model's place: at a step in which words may end, those that
it has not seen in their context are scored in one batch (shallow fusion, Gulcehre et al. 2015, arXiv:1503.03535).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .automaton import Automaton
from .compiled import compiled
from .ngram import NGramArrays, next_state
from .prefix import END_OF_SENTENCE, LN_10, UNKNOWN_WORD, Knowledge
from .search import Limits, Paths
from .spoken_words import NO_TOKEN, SpokenWords
from .units import SPACE

if TYPE_CHECKING:
    from .rescoring import CausalWordScorer

__all__ = ["search_batch"]

HASH_FACTOR, HASH_STEP = 6364136223846793005, 1442695040888963407  # Knuth's linear congruence, modulo 2**64


@dataclass
class _Prefixes:
    """Prefixes, or candidates for them; every field has the same shape. What they mean is said in `prefix.NODE`."""

    hash: torch.Tensor
    token: torch.Tensor
    in_blank: torch.Tensor
    in_token: torch.Tensor
    is_open: torch.Tensor
    lexicon: torch.Tensor
    lm: torch.Tensor
    hot: torch.Tensor
    phrase: torch.Tensor
    lm_score: torch.Tensor
    bonus: torch.Tensor
    static: torch.Tensor

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "_Prefixes":
        return _Prefixes(*(function(getattr(self, field.name)) for field in fields(self)))

    @property
    def acoustic(self) -> torch.Tensor:
        return torch.logaddexp(self.in_blank, self.in_token)


@torch.no_grad()
def search_batch(
    log_probs: torch.Tensor | np.ndarray,
    lengths: np.ndarray,
    blank: int,
    limits: Limits,
    knowledge: Knowledge,
    scorer: "CausalWordScorer | None" = None,
) -> list[Paths]:
    """Find the best token sequences of every utterance of a batch.

    Args:
        log_probs: `(batch, steps, vocab)` log-probabilities; the search runs on their device.
        lengths: `(batch,)` steps of each utterance.
        blank: Id of the CTC blank.
        limits: What is left out.
        knowledge: What else scores a prefix.
        scorer: A causal language model in place of the knowledge's n-grams.

    Returns:
        For each utterance its beam at the end, as `search.search` returns it.
    """
    log_probs = torch.as_tensor(log_probs).double()
    return _BatchedSearch(log_probs, lengths, blank, limits, knowledge, scorer).run()


class _BatchedSearch:
    def __init__(
        self,
        log_probs: torch.Tensor,
        lengths: np.ndarray,
        blank: int,
        limits: Limits,
        knowledge: Knowledge,
        scorer: "CausalWordScorer | None",
    ) -> None:
        self.log_probs, self.blank, self.limits = log_probs, blank, limits
        self.device = log_probs.device
        self.lengths = torch.as_tensor(lengths, device=self.device)
        self.knowledge = _to_tensors(knowledge, self.device)
        self.pieces = _padded_pieces(knowledge, self.device)  # (vocab, bytes)
        self.next_state = torch.as_tensor(_next_states(knowledge.ngrams), device=self.device)  # (nodes,)
        self.allowed = self._allow_tokens()  # (batch, steps, vocab)
        self.words = None if scorer is None else SpokenWords(scorer, knowledge, len(log_probs))

    def run(self) -> list[Paths]:
        prefixes = self._start()
        places, tokens = [], []
        counts = self.allowed.sum(dim=-1).amax(dim=0).tolist() if len(self.log_probs) else []
        for step, count in enumerate(counts):
            prefixes, place, token = self._step(prefixes, step, count)
            places.append(place)
            tokens.append(token)
            if self.words is not None:
                self.words.follow(place.tolist(), token.tolist())
        return self._finish(prefixes, places, tokens)

    def _allow_tokens(self) -> torch.Tensor:
        """Where which token may extend a prefix: as `search._pick_tokens`."""
        searched = self.knowledge.is_searched.clone()
        searched[self.blank] = False
        if self.knowledge.has_phrases:
            return searched.expand(self.log_probs.shape).clone()
        allowed = searched & (self.log_probs >= self.limits.token_min_logp)
        best = self.log_probs.masked_fill(~searched, -torch.inf).argmax(dim=-1, keepdim=True)
        is_best = torch.zeros_like(allowed).scatter_(-1, best, True) & searched
        beats_blank = self.log_probs >= self.log_probs[..., self.blank, None]
        return allowed | (is_best & beats_blank & ~allowed.any(dim=-1, keepdim=True))

    def _start(self) -> _Prefixes:
        def full(value: float, dtype: torch.dtype) -> torch.Tensor:
            return torch.full((len(self.log_probs), 1), value, dtype=dtype, device=self.device)

        whole, real = torch.int64, torch.float64
        return _Prefixes(
            hash=full(0, whole),
            token=full(NO_TOKEN, whole),
            in_blank=full(0.0, real),
            in_token=full(-torch.inf, real),
            is_open=full(False, torch.bool),
            lexicon=full(0, whole),
            lm=full(self.knowledge.begin_state, whole),
            hot=full(self.knowledge.hot_words.start, whole),
            phrase=full(0, whole),
            lm_score=full(0.0, real),
            bonus=full(0.0, real),
            static=full(0.0, real),
        )

    def _step(self, old: _Prefixes, step: int, count: int) -> tuple[_Prefixes, torch.Tensor, torch.Tensor]:
        """One step of all utterances: the new beam, where each came from, and the token it got, `(batch, width)`."""
        row = self.log_probs[:, step]  # (batch, vocab)
        is_running = (step < self.lengths)[:, None]
        stays = self._stay(old, row, is_running)
        candidates = stays.map(lambda field: field)
        width = old.token.shape[1]
        token = torch.full_like(old.token, NO_TOKEN)
        place = torch.arange(width, device=self.device).expand_as(token)
        if count:
            vocabulary = torch.arange(row.shape[1], device=self.device)
            chosen = torch.where(self.allowed[:, step], vocabulary, len(vocabulary))
            chosen = chosen.topk(count, largest=False, sorted=True).values  # (batch, tokens)
            more = self._extend(old, chosen, row, is_running)
            candidates = _Prefixes(
                *(
                    torch.cat([getattr(stays, field.name), getattr(more, field.name)], dim=1)
                    for field in fields(_Prefixes)
                )
            )
            token = torch.cat([token, more.token], dim=1)
            place = torch.cat([place, place.repeat_interleave(count, dim=1)], dim=1)
        scores = candidates.acoustic + candidates.static
        is_low = scores < scores.amax(dim=1, keepdim=True) + self.limits.beam_prune_logp
        for field in (scores, candidates.in_blank, candidates.in_token):
            field.masked_fill_(is_low & is_running, -torch.inf)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.limits.beam_width]
        return candidates.map(lambda field: field.gather(1, order)), place.gather(1, order), token.gather(1, order)

    def _stay(self, old: _Prefixes, row: torch.Tensor, is_running: torch.Tensor) -> _Prefixes:
        """The prefixes as they are after one more step; where the utterance has ended, unchanged."""
        last = row.gather(1, old.token.clamp(min=0)).masked_fill(old.token < 0, -torch.inf)  # (batch, width)
        is_child = _child_hash(old.hash[:, None, :], old.token[:, :, None]) == old.hash[:, :, None]
        is_alive = torch.isfinite(old.acoustic)  # the beam's last places may hold what no alignment reaches
        is_child &= ((old.token >= 0) & is_alive)[:, :, None] & is_alive[:, None, :]
        reached = _extended(old.token[:, None, :], old.token[:, :, None], old.in_blank[:, None], old.acoustic[:, None])
        reached = reached.masked_fill(~is_child, -torch.inf).amax(dim=-1)  # (batch, width)
        in_token = torch.logaddexp(old.in_token, reached) + last
        in_blank = old.acoustic + row[:, self.blank, None]
        return replace(
            old,
            in_blank=torch.where(is_running, in_blank, old.in_blank),
            in_token=torch.where(is_running, in_token, old.in_token),
        )

    def _extend(self, old: _Prefixes, chosen: torch.Tensor, row: torch.Tensor, is_running: torch.Tensor) -> _Prefixes:
        """Each prefix with each of the tokens `chosen (batch, tokens)`: `(batch, width * tokens)`."""
        is_real = chosen < row.shape[1]
        chosen = chosen.clamp(max=row.shape[1] - 1)
        width, count = old.token.shape[1], chosen.shape[1]
        token = chosen[:, None, :].expand(-1, width, -1)
        in_token = _extended(old.token[..., None], token, old.in_blank[..., None], old.acoustic[..., None])
        in_token = in_token + row.gather(1, chosen)[:, None, :]
        hashes = _child_hash(old.hash[..., None], token)  # (batch, width, tokens)
        is_alive = torch.isfinite(old.acoustic)[:, None, None]
        in_beam = ((hashes[..., None] == old.hash[:, None, None]) & is_alive).any(dim=-1)
        in_token = in_token.masked_fill(in_beam | ~(is_real & is_running)[:, None, :], -torch.inf)
        may_end = self._close_words(old, self.pieces[chosen][..., 0] == SPACE)
        new = old.map(lambda field: field[..., None].expand(-1, -1, count))
        new = replace(new, hash=hashes, token=token, in_blank=torch.full_like(in_token, -torch.inf), in_token=in_token)
        new = self._read(new, self.pieces[token], may_end)
        return new.map(lambda field: field.reshape(len(field), width * count))

    def _close_words(self, old: _Prefixes, ends_word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """State and score of the language model after the word that each prefix is inside of, `(batch, width)`."""
        if self.words is not None:
            asked = old.is_open & ends_word.any(dim=-1, keepdim=True) & torch.isfinite(old.acoustic)
            return old.lm, torch.tensor(self.words.score_open(asked.tolist()), device=self.device).double()
        return self._score_open_word(old)

    def _open_word(self, prefixes: _Prefixes) -> torch.Tensor:
        """Id of the open word, as it is, in the n-gram model."""
        word = self.knowledge.lexicon.value[prefixes.lexicon.clamp(min=0)]
        return torch.where((prefixes.lexicon >= 0) & (word >= 0), word, UNKNOWN_WORD)

    def _score_open_word(self, prefixes: _Prefixes) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.knowledge.has_lm:
            return prefixes.lm, torch.zeros_like(prefixes.lm_score)
        return self._score_word(prefixes.lm, self._open_word(prefixes))

    def _word_bonus(self, prefixes: _Prefixes) -> torch.Tensor | float:
        if not self.knowledge.has_lm:
            return self.knowledge.word_bonus
        is_unknown = self._open_word(prefixes) == UNKNOWN_WORD
        return self.knowledge.word_bonus + torch.where(is_unknown, self.knowledge.unknown_word_score, 0.0)

    def _score_word(self, state: torch.Tensor, word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `ngram.score_word`, in natural logarithms: next state and score."""
        ngrams = self.knowledge.ngrams
        score = torch.zeros(state.shape, dtype=torch.float64, device=self.device)
        found = _find(ngrams.first_child[state], ngrams.first_child[state + 1], ngrams.word, word)
        while (missing := found < 0).any():
            score = score + torch.where(missing, ngrams.log10_backoff[state].double(), 0.0)
            state = torch.where(missing, ngrams.suffix[state], state)
            again = _find(ngrams.first_child[state], ngrams.first_child[state + 1], ngrams.word, word)
            found = torch.where(missing, again, found)
        score = score + ngrams.log10_prob[found].double()
        return self.next_state[found], score * LN_10

    def _read(self, new: _Prefixes, pieces: torch.Tensor, parents: tuple[torch.Tensor, torch.Tensor]) -> _Prefixes:
        """Let prefixes `(batch, width, tokens)` read their last token's `pieces (batch, width, tokens, bytes)`."""
        knowledge = self.knowledge
        for position in range(pieces.shape[-1]):
            byte = pieces[..., position]
            is_text = (byte != 0) & (byte != SPACE)
            closes = (byte == SPACE) & new.is_open
            if position == 0:
                lm, score = (field[..., None] for field in parents)
            elif closes.any():
                lm, score = self._score_open_word(new)
            new.lm = torch.where(closes, lm, new.lm)
            new.lm_score = torch.where(closes, new.lm_score + score, new.lm_score)
            new.bonus = torch.where(closes, new.bonus + self._word_bonus(new), new.bonus)
            if knowledge.has_lm:
                begun = torch.where(is_text & ~new.is_open, 0, new.lexicon)
                new.lexicon = torch.where(is_text, _follow(knowledge.lexicon, begun, byte), begun)
            new.is_open = (new.is_open | is_text) & ~closes
            reads = is_text | closes
            hot = knowledge.hot_words.next[new.hot, knowledge.hot_words.symbol[byte]]
            new.hot = torch.where(reads, hot, new.hot)
            new.bonus = torch.where(reads, new.bonus + knowledge.hot_words.bonus[hot], new.bonus)
            if knowledge.has_phrases:
                new.phrase = torch.where(reads, _follow(knowledge.phrases, new.phrase, byte), new.phrase)
        new.in_token = new.in_token.masked_fill(new.phrase < 0, -torch.inf)
        new.static = knowledge.lm_weight * new.lm_score + new.bonus + self._look_ahead(new)
        return new

    def _look_ahead(self, prefixes: _Prefixes) -> torch.Tensor:
        knowledge = self.knowledge
        inside = torch.full_like(prefixes.static, knowledge.word_bonus)
        if knowledge.has_lm:
            known = knowledge.lm_weight * knowledge.best_word[prefixes.lexicon.clamp(min=0)]
            unknown = knowledge.lm_weight * knowledge.unknown_score + knowledge.unknown_word_score
            inside = inside + torch.where(prefixes.lexicon >= 0, known, unknown)
        return knowledge.hot_words.potential[prefixes.hot] + torch.where(prefixes.is_open, inside, 0.0)

    def _finish(self, last: _Prefixes, places: list[torch.Tensor], tokens: list[torch.Tensor]) -> list[Paths]:
        """End each prefix's sentence; as `search._finish`."""
        acoustic = last.acoustic
        everything = torch.ones(len(acoustic), 1, dtype=torch.bool, device=self.device)
        may_end = self._close_words(last, everything)
        space = torch.full((*last.token.shape, 1, 1), SPACE, device=self.device)
        ended = self._read(last.map(lambda field: field[..., None]), space, may_end).map(lambda field: field[..., 0])
        lm = torch.zeros_like(acoustic)
        if self.words is not None:
            lm = ended.lm_score + torch.tensor(self.words.score_ends(), device=self.device).double()
        elif self.knowledge.has_lm:
            lm = ended.lm_score + self._score_word(ended.lm, torch.full_like(ended.lm, END_OF_SENTENCE))[1]
        scores = acoustic + self.knowledge.lm_weight * lm + ended.bonus
        if self.knowledge.has_phrases:
            is_final = (ended.phrase >= 0) & (self.knowledge.phrases.value[ended.phrase.clamp(min=0)] >= 0)
            scores = scores.masked_fill(~is_final, -torch.inf)
        order = scores.sort(dim=1, descending=True, stable=True).indices
        columns = [field.gather(1, order).cpu().numpy() for field in (scores, acoustic, lm)]
        steps = [[step.cpu().numpy() for step in part] for part in (places, tokens)]
        written = _trace_back(order.cpu().numpy(), *steps)
        return [_paths(*(column[row] for column in columns), written[row]) for row in range(len(written))]


def _to_tensors(knowledge: Knowledge, device: torch.device) -> Knowledge:
    """The same knowledge with tensors for arrays."""

    def convert(value: object) -> object:
        if isinstance(value, tuple):
            return type(value)(*map(convert, value))
        if not isinstance(value, np.ndarray):
            return value
        tensor = torch.as_tensor(np.array(value), device=device)  # a copy: torch refuses read-only memory
        return tensor.long() if tensor.dtype in (torch.int32, torch.uint8) else tensor

    return convert(knowledge)


@compiled
def _next_states(ngrams: NGramArrays) -> np.ndarray:
    """State after each n-gram, `(nodes,)`."""
    states = np.empty(len(ngrams.word), np.int64)
    for node in range(len(states)):
        states[node] = next_state(ngrams, node)
    return states


def _padded_pieces(knowledge: Knowledge, device: torch.device) -> torch.Tensor:
    """Bytes that each token writes, `(vocab, bytes)`, 0 behind a piece's end."""
    lengths = np.diff(knowledge.piece_start)
    padded = np.zeros((len(lengths), max(1, lengths.max())), dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = knowledge.pieces[: lengths.sum()]
    return torch.as_tensor(padded, device=device)


def _child_hash(parent: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Hash of a prefix with one more token."""
    mixed = parent * HASH_FACTOR + (token + 1) * HASH_STEP
    return mixed ^ (mixed >> 29)


def _extended(last: torch.Tensor, token: torch.Tensor, in_blank: torch.Tensor, acoustic: torch.Tensor) -> torch.Tensor:
    """Log-probability of the alignments that `token` may follow: behind itself only those that end in blank."""
    return torch.where(last == token, in_blank, acoustic)


def _find(first: torch.Tensor, end: torch.Tensor, keys: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Place of `key` among `keys[first:end]`, which ascend, or -1; for all elements at once."""
    low, high = first, end
    while (searching := low < high).any():
        middle = (low + high) // 2
        is_below = searching & (keys[middle.clamp(max=len(keys) - 1)] < key)
        low, high = torch.where(is_below, middle + 1, low), torch.where(searching & ~is_below, middle, high)
    is_there = (low < end) & (keys[low.clamp(max=len(keys) - 1)] == key)
    return torch.where(is_there, low, -1)


def _follow(automaton: Automaton, state: torch.Tensor, byte: torch.Tensor) -> torch.Tensor:
    """As `automaton.follow`; -1 stays -1."""
    if len(automaton.label) == 0:
        return torch.full_like(state, -1)
    known = state.clamp(min=0)
    arc = _find(automaton.first_arc[known], automaton.first_arc[known + 1], automaton.label, byte)
    return torch.where((state >= 0) & (arc >= 0), automaton.target[arc.clamp(min=0)], -1)


def _trace_back(order: np.ndarray, places: list[np.ndarray], tokens: list[np.ndarray]) -> np.ndarray:
    """Token that each path got at each step, `(batch, paths, steps)`, -1 where it got none."""
    written = np.full((*order.shape, len(tokens)), NO_TOKEN, dtype=np.int32)
    for step in range(len(tokens) - 1, -1, -1):
        written[..., step] = np.take_along_axis(tokens[step], order, axis=1)
        order = np.take_along_axis(places[step], order, axis=1)
    return written


def _paths(scores: np.ndarray, acoustic: np.ndarray, lm: np.ndarray, written: np.ndarray) -> Paths:
    """Paths of one utterance; `written (paths, steps)`."""
    kept = np.isfinite(scores)
    rows = [row[row != NO_TOKEN] for row in written[kept]]
    start = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    tokens = np.concatenate([np.empty(0, np.int32), *rows])
    return Paths(scores[kept], acoustic[kept], lm[kept], tokens, start)
