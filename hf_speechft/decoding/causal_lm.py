"""CausalLM: log-probabilities of token sequences by a causal language model, many at once.

    (context, continuation) -> rows without those that begin another row -> logits (rows, tokens, vocab) -> sums

Unusual here: keys and values of tokens that were read are kept in a trie, one slot for each token after each prefix,
so that a beam whose sentences grow word by word reads every token of a shared beginning once. Rows are padded on the
right, where causal attention never looks.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["CausalLM", "KeyValueTrie", "check_lengths", "plan_rows"]

SAME_WITHIN = 1e-2  # nats; what lies ahead changes a bidirectional model's logits by more, and rounding by less

CACHE_NAMES = ("cache", "past_key_values")  # of transformers 5.24, and of 5.17

Tokens = tuple[int, ...]


class CausalLM:
    """Log-probabilities of continuations, each given its context.

    Args:
        model: A model with a causal language-model head, in evaluation mode.
        tokenizer: Its tokenizer, for the special tokens.
        batch_size: Rows that the model reads at once.
        keep_bytes: Memory for keys and values of tokens that were read; 0 keeps none. Models without plain attention
            layers, such as Mamba, keep none either.

    Attributes:
        begin: What sentences begin with: BOS, or EOS where the tokenizer has no BOS.
        end: What sentences end with: EOS, or nothing where the tokenizer has none.

    Raises:
        ValueError: The tokenizer has neither BOS nor EOS, or the model's logits depend on later tokens.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        batch_size: int = 64,
        keep_bytes: int = 0,
    ) -> None:
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        begin = end if begin is None else begin
        if begin is None:
            raise ValueError(
                "the tokenizer has neither a BOS nor an EOS token to begin a sentence with; set bos_token"
            )
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.begin: Tokens = (begin,)
        self.end: Tokens = () if end is None else (end,)
        self._cache_name = _find_plain_cache(self._probe())
        self._kept = KeyValueTrie(keep_bytes) if keep_bytes and self._cache_name else None

    @torch.inference_mode()
    def score(self, requests: Sequence[tuple[Tokens, Tokens]]) -> np.ndarray:
        """Sum the natural log-probabilities of each continuation's tokens.

        Args:
            requests: Pairs of a context, which begins with `begin`, and its continuation.

        Returns:
            `(requests,)` log-probabilities; 0 for a continuation without tokens.

        Raises:
            ValueError: A context with its continuation is longer than the model can read.
        """
        rows, row_of = plan_rows([context + continuation[:-1] for context, continuation in requests])
        check_lengths(rows, self.model, self.tokenizer)
        wanted = [[] for _ in rows]  # (position of the logits, token, request)
        for request, (context, continuation) in enumerate(requests):
            positions = enumerate(continuation, start=len(context) - 1)
            wanted[row_of[request]] += [(position, token, request) for position, token in positions]
        totals = np.zeros(len(requests))
        for batch, slots in self._batches(rows, wanted):
            logits = self._read([rows[row] for row in batch], slots)  # (rows, tokens, vocab)
            past = len(slots[0])
            picked = [(i, position - past, *rest) for i, row in enumerate(batch) for position, *rest in wanted[row]]
            if picked:
                i, position, token, request = torch.tensor(picked, device=logits.device).T
                scores = logits[i, position, token] - logits.logsumexp(dim=-1)[i, position]  # (picked,)
                np.add.at(totals, request.cpu().numpy(), scores.double().cpu().numpy())
        return totals

    def _probe(self) -> dict:
        """Read two rows that differ at their end, which must not change what is predicted before it."""
        ids = torch.tensor([[*self.begin, 0], [*self.begin, 1]], device=self.model.device)
        with torch.inference_mode():
            output = self.model(input_ids=ids, use_cache=True)
        first, second = output.logits[:, 0].float()
        if (first - second).abs().max() > SAME_WITHIN:
            raise ValueError(
                f"{type(self.model).__name__} looks at the tokens that it should predict, so it gives no "
                "probabilities of sentences; take a causal language model such as GPT-2"
            )
        return output

    def _batches(self, rows: list[Tokens], wanted: list[list]) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Group rows of which equally many tokens were read before, short rows first, with the slots of these."""
        slots: list[list[int]] = [[] for _ in rows]
        if self._kept is not None:
            self._kept.make_room(rows)
            first_wanted = [min((position for position, *_ in row), default=0) for row in wanted]
            slots = [self._kept.find(row[:first]) for row, first in zip(rows, first_wanted, strict=True)]
        order = sorted(range(len(rows)), key=lambda row: (len(slots[row]), len(rows[row])))
        for _, group in groupby(order, key=lambda row: len(slots[row])):
            group = list(group)
            for start in range(0, len(group), self.batch_size):
                batch = group[start : start + self.batch_size]
                yield batch, [slots[row] for row in batch]

    def _read(self, rows: list[Tokens], slots: list[list[int]]) -> torch.Tensor:
        """Give the logits behind each token that was not read before: `(rows, tokens, vocab)` float32."""
        past, device = len(slots[0]), self.model.device
        ids = pad_sequence([torch.tensor(row[past:]) for row in rows], batch_first=True).to(device)  # (rows, tokens)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(past + ids.shape[1], device=device) < lengths[:, None]  # (rows, past + tokens)
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        if self._kept is None:
            return self.model(**inputs, use_cache=False).logits.float()
        # A cache of our own has whole layers even where the model's attention is a sliding window.
        cache = self._kept.gather(slots, device)
        logits = self.model(**inputs, **{self._cache_name: cache}, use_cache=True).logits.float()
        self._kept.keep(rows, slots, cache)
        return logits


class KeyValueTrie:
    """Keys and values of tokens that a model read, one slot for each token after each prefix.

    Args:
        limit_bytes: Memory for them. When it is full, everything is forgotten.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._slot_after: dict[tuple[int, int], int] = {}  # (slot of the token before, token) -> slot
        self._pools: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each layer, (slots, heads, size)

    def make_room(self, rows: Sequence[Tokens]) -> None:
        """Forget everything if the new tokens of `rows` would not fit; slots that `find` gave hold until then."""
        new_tokens = sum(len(row) - len(self.find(row)) for row in rows)
        if self._pools and len(self._slot_after) + new_tokens > len(self._pools[0][0]):
            self._slot_after.clear()

    def find(self, ids: Tokens) -> list[int]:
        """Give the slots of the tokens with which `ids` begins, as far as they were read."""
        slots: list[int] = []
        for token in ids:
            slot = self._slot_after.get((slots[-1] if slots else -1, token))
            if slot is None:
                break
            slots.append(slot)
        return slots

    def gather(self, slots: list[list[int]], device: torch.device) -> DynamicCache:
        """Make the cache for rows whose first tokens lie in `slots`, `(rows, past)`."""
        cache = DynamicCache()
        if slots[0]:
            index = torch.tensor(slots, device=device)
            for layer, pools in enumerate(self._pools):
                cache.update(*(pool[index].transpose(1, 2) for pool in pools), layer)  # (rows, heads, past, size)
        return cache

    def keep(self, rows: list[Tokens], slots: list[list[int]], cache: DynamicCache) -> None:
        """Keep what `cache` holds of the tokens behind `slots`, as long as there is room."""
        layers = [(layer.keys, layer.values) for layer in cache.layers]  # (rows, heads, tokens, size)
        if not self._pools:
            token_bytes = sum(t.shape[1] * t.shape[3] * t.element_size() for layer in layers for t in layer)
            capacity = self.limit_bytes // token_bytes
            self._pools = [tuple(t.new_empty(capacity, t.shape[1], t.shape[3]) for t in layer) for layer in layers]
        new = []  # (slot, row, position)
        for number, (row, known) in enumerate(zip(rows, slots, strict=True)):
            before = known[-1] if known else -1
            for position in range(len(known), len(row)):
                slot = self._slot_after.get((before, row[position]))
                if slot is None:
                    slot = len(self._slot_after)
                    if slot == len(self._pools[0][0]):
                        break
                    self._slot_after[before, row[position]] = slot
                    new.append((slot, number, position))
                before = slot
        if new:
            slot, number, position = torch.tensor(new, device=layers[0][0].device).T
            for pools, layer in zip(self._pools, layers, strict=True):
                for pool, kept in zip(pools, layer, strict=True):
                    pool[slot] = kept[number, :, position]  # (new, heads, size)


def plan_rows(inputs: Sequence[Tokens]) -> tuple[list[Tokens], list[int]]:
    """Find the rows to read: those that no other row begins with, since that one gives their logits too.

    Args:
        inputs: Token sequences.

    Returns:
        The rows, and for each input the number of its row.

    >>> plan_rows([(0, 5), (0, 5, 6), (0, 7), (0, 5)])
    ([(0, 7), (0, 5, 6)], [1, 1, 0, 1])
    """
    rows: list[Tokens] = []
    row_of = [0] * len(inputs)
    # In descending order a sequence comes right after those that it begins.
    for number in sorted(range(len(inputs)), key=inputs.__getitem__, reverse=True):
        if not rows or rows[-1][: len(inputs[number])] != inputs[number]:
            rows.append(inputs[number])
        row_of[number] = len(rows) - 1
    return rows, row_of


def check_lengths(
    rows: Sequence[Sequence[int]], model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Refuse rows that the model has no positions for.

    Args:
        rows: Token sequences.
        model: Model whose configuration says how many positions there are.
        tokenizer: Its tokenizer, whose limit is lower for models such as RoBERTa.

    Raises:
        ValueError: A row is too long.
    """
    limit = min(getattr(model.config, "max_position_embeddings", None) or np.inf, tokenizer.model_max_length)
    longest = max(map(len, rows), default=0)
    if longest > limit:
        raise ValueError(
            f"a text has {longest} tokens and the language model takes {limit:.0f}; score shorter texts, or take a "
            "model with more positions"
        )


def _find_plain_cache(output: dict) -> str | None:
    """Find what a model calls the keys and values of all tokens; None if it keeps other things or in other ways."""
    for name in CACHE_NAMES:
        cache = output.get(name)
        if type(cache) is DynamicCache and all(
            type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and layer.keys is not None
            for layer in cache.layers
        ):
            return name
    return None
