import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from hf_speechft.decoding.causal_lm import CausalLM, KeyValueTrie, plan_rows
from tests.decoding.tiny_language_models import ReadTokens, plain_causal_score, tiny_model, tiny_tokenizer

KEEP_ALL = 2**24


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)))
def test_plan_rows_reads_each_input_in_the_fewest_rows(inputs):
    rows, row_of = plan_rows(inputs)
    assert all(rows[row][: len(ids)] == ids for ids, row in zip(inputs, row_of, strict=True))
    longest = {ids for ids in inputs if not any(other != ids and other[: len(ids)] == ids for other in inputs)}
    assert sorted(rows) == sorted(longest)


def grow(generator, lm, width=5, steps=4):
    """Contexts as a beam has them: each step they branch off those of the step before, with 1 to 3 new tokens."""
    contexts = [lm.begin]
    for _ in range(steps):
        sources = [contexts[place] for place in generator.integers(len(contexts), size=width)]
        requests = [
            (context, tuple(generator.integers(4, 12, size=generator.integers(1, 4)).tolist())) for context in sources
        ]
        yield requests
        contexts = [context + continuation for context, continuation in requests]


@pytest.mark.parametrize("keep_bytes", [0, 3_000, KEEP_ALL])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "opt", "mamba"])
def test_score_of_growing_contexts_matches_one_token_at_a_time(kind, keep_bytes):
    model = tiny_model(kind)
    lm = CausalLM(model, tiny_tokenizer(kind), batch_size=3, keep_bytes=keep_bytes)
    for requests in grow(np.random.default_rng(0), lm):
        expected = [
            plain_causal_score(model, context + continuation) - plain_causal_score(model, context)
            for context, continuation in requests
        ]
        np.testing.assert_allclose(lm.score(requests), expected, atol=2e-4)


@pytest.mark.parametrize(("kind", "keeps"), [("gpt2", True), ("mistral", True), ("mamba", False)])
def test_score_with_kept_keys_reads_fewer_tokens(kind, keeps):
    read = []
    for keep_bytes in (0, KEEP_ALL):
        model = tiny_model(kind)
        lm = CausalLM(model, tiny_tokenizer(kind), keep_bytes=keep_bytes)
        counted = ReadTokens(model)
        for requests in grow(np.random.default_rng(0), lm, steps=8):
            lm.score(requests)
        read.append(counted.tokens)
    assert read[1] < 0.5 * read[0] if keeps else read[1] == read[0]


def test_score_of_continuations_of_one_context_reads_one_row():
    model = tiny_model("gpt2")
    lm = CausalLM(model, tiny_tokenizer("gpt2"))
    counted = ReadTokens(model)
    lm.score([((0, 7), (token,)) for token in range(50)])
    assert (counted.passes, counted.tokens) == (1, 2)


def test_score_of_all_next_tokens_is_a_distribution():
    lm = CausalLM(tiny_model("llama"), tiny_tokenizer("llama"))
    scores = lm.score([((0, 9, 4), (token,)) for token in range(300)])
    assert np.exp(scores).sum() == pytest.approx(1.0, abs=1e-5)


def test_score_without_tokens_is_zero():
    lm = CausalLM(tiny_model("gpt2"), tiny_tokenizer("gpt2"))
    assert lm.score([]).shape == (0,)
    assert lm.score([((0, 3), ())]).tolist() == [0.0]


def test_score_of_too_many_tokens_raises():
    lm = CausalLM(tiny_model("gpt2"), tiny_tokenizer("gpt2"))
    lm.score([((0,), (5,) * 40)])
    with pytest.raises(ValueError, match="a text has 41 tokens and the language model takes 40"):
        lm.score([((0,), (5,) * 41)])


def test_causal_lm_without_begin_token_raises():
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither a BOS nor an EOS"):
        CausalLM(tiny_model("gpt2"), tokenizer)


def test_causal_lm_that_looks_ahead_raises():
    with pytest.raises(ValueError, match="XLNetLMHeadModel looks at the tokens that it should predict"):
        CausalLM(tiny_model("xlnet"), tiny_tokenizer("gpt2"))


def fill(trie, rows):
    """Let the trie keep rows whose keys are their tokens, (rows, heads, tokens, size), and values the negative."""
    cache = DynamicCache()
    slots = [trie.find(row[:-1]) for row in rows]
    keys = torch.tensor(rows, dtype=torch.float32)[:, None, :, None]
    cache.update(keys, -keys, 0)
    trie.keep(rows, slots, cache)


def test_key_value_trie_gives_back_what_it_keeps():
    trie = KeyValueTrie(limit_bytes=1_000)
    fill(trie, [(0, 5, 6), (0, 5, 7)])
    assert trie.find((0, 5, 6)) != trie.find((0, 5, 7))
    assert trie.find((0, 5, 6))[:2] == trie.find((0, 5, 7))[:2]
    assert trie.find((5, 6)) == []
    layer = trie.gather([trie.find((0, 5, 7)), trie.find((0, 5, 6, 9))], torch.device("cpu")).layers[0]
    assert layer.keys[:, 0, :, 0].tolist() == [[0, 5, 7], [0, 5, 6]]
    assert layer.values[:, 0, :, 0].tolist() == [[0, -5, -7], [0, -5, -6]]


def test_key_value_trie_when_full_starts_anew():
    trie = KeyValueTrie(limit_bytes=8 * 4)  # four tokens of a float32 key and a float32 value
    fill(trie, [(0, 5, 6), (0, 5, 7)])
    trie.make_room([(0, 5, 7)])
    assert len(trie.find((0, 5, 7))) == 3
    trie.make_room([(0, 5, 8)])
    assert trie.find((0, 5, 7)) == []
    fill(trie, [(1, 2, 3, 4, 5)])
    assert len(trie.find((1, 2, 3, 4, 5))) == 4  # the fifth has no room
