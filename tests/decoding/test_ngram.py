"""N-gram models: scores against KenLM and against the definition of back-off, states, the binary file."""

import copy
import itertools
import json
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from hf_speechft.decoding.ngram import NGramLM, NodeRows, join_orders, next_state, score_word

# Pruned: "a c", the suffix of "b a c", is absent.
PRUNED = r"""
\data\
ngram 1=6
ngram 2=4
ngram 3=2

\1-grams:
-2.0	<unk>
-99	<s>	-0.5
-0.7	</s>
-0.9	a	-0.25
-0.8	b	-0.375
-1.1	c	0.125

\2-grams:
-0.4	<s> a	-0.3
-0.5	a b	-0.2
-0.6	b a	-0.45
-0.35	c a

\3-grams:
-0.15	<s> a b
-0.25	b a c

\end\
"""


@pytest.fixture
def pruned(tmp_path):
    path = tmp_path / "pruned.arpa"
    path.write_text(PRUNED, encoding="utf-8")
    return NGramLM.from_arpa(path)


# Made by Model.score of kenlm 0.3.0 (PyPI) on the file above.
@pytest.mark.parametrize(
    ("sentence", "bos_eos", "bos", "eos", "neither"),
    [
        ("a b", -1.825, -0.55, -2.675, -1.4),
        ("b a c a", -3.45, -2.5, -2.95, -2.0),
        ("c a b a c", -4.075, -3.5, -3.575, -3.0),
        ("a x b a", -5.75, -4.35, -5.95, -4.55),
        ("b a c b", -3.9, -2.825, -3.4, -2.325),
        ("", -1.2, 0.0, -0.7, 0.0),
    ],
)
def test_score_pruned_model_matches_kenlm(pruned, sentence, bos_eos, bos, eos, neither):
    scores = [pruned.score(sentence, bos=begins, eos=ends) for begins in (True, False) for ends in (True, False)]
    assert scores == pytest.approx([bos_eos, bos, eos, neither], abs=1e-5)
    assert pruned.score(sentence) == scores[0]


def by_definition(ngrams, context, word):
    """Back-off as it is defined, by dictionary: `ngrams` gives log10 probability and back-off."""
    if (*context, word) in ngrams:
        return ngrams[(*context, word)][0]
    backoff = ngrams[context][1] if context in ngrams else 0.0
    return backoff + by_definition(ngrams, context[1:], word)


@st.composite
def pruned_models(draw):
    """The n-grams of a random model of order 1 to 4: contexts are there, suffixes may be missing."""
    words = ["<unk>", "<s>", "</s>", "a", "b", "c"][: draw(st.integers(4, 6))]
    logs = st.integers(-30, 0).map(lambda tenths: tenths / 8)
    kept = [()]
    ngrams = {}
    for order in range(1, draw(st.integers(1, 4)) + 1):
        candidates = [(*context, word) for context in kept for word in words]
        kept = candidates if order == 1 else draw(st.lists(st.sampled_from(candidates), max_size=12, unique=True))
        if not kept:
            break
        ngrams.update({ngram: (draw(logs), draw(st.sampled_from([0.0, -0.5, 0.25]))) for ngram in kept})
    highest = max(map(len, ngrams))
    return {ngram: (prob, 0.0 if len(ngram) == highest else backoff) for ngram, (prob, backoff) in ngrams.items()}


def arpa_text(ngrams):
    by_order = [list(group) for _, group in itertools.groupby(sorted(ngrams, key=len), key=len)]
    lines = ["\\data\\", *(f"ngram {order}={len(group)}" for order, group in enumerate(by_order, start=1))]
    for order, group in enumerate(by_order, start=1):
        lines.append(f"\\{order}-grams:")
        lines += [f"{ngrams[ngram][0]}\t{' '.join(ngram)}\t{ngrams[ngram][1]}" for ngram in group]
    return "\n".join([*lines, "\\end\\", ""])


@settings(max_examples=60)
@given(pruned_models(), st.lists(st.sampled_from(["a", "b", "c", "x"]), max_size=8))
def test_score_word_random_model_matches_definition(tmp_path_factory, ngrams, sentence):
    path = tmp_path_factory.mktemp("random") / "lm.arpa"
    path.write_text(arpa_text(ngrams), encoding="utf-8")
    lm = NGramLM.from_arpa(path)
    first_of_order = lm.first_nodes[lm.order - 1]
    context, state = ("<s>",), lm.begin_state
    for word in [*sentence, "</s>"]:
        word = word if (word,) in ngrams else "<unk>"
        log10_prob, state = score_word(lm.arrays, state, lm.word_id(word))
        assert log10_prob == pytest.approx(
            by_definition(ngrams, context[-lm.order + 1 :] if lm.order > 1 else (), word)
        )
        assert state < first_of_order  # nothing is conditioned on as many words as the order
        context = (*context, word)


def test_next_state_is_the_longest_context_that_can_matter(pruned):
    ids = {word: pruned.word_id(word) for word in ("a", "b", "c")}

    def state_after(*words):
        state = 0
        for word in words:
            _, state = score_word(pruned.arrays, state, ids[word])
        return state

    assert state_after("a") == ids["a"] + 1
    assert state_after("c", "a") == ids["a"] + 1  # "c a" has no longer n-grams and no back-off
    assert state_after("a", "b") not in (0, ids["b"] + 1)  # "a b" has a back-off
    assert state_after("b", "a", "c") == ids["c"] + 1  # past "a c", which the model lacks
    assert next_state(pruned.arrays, 0) == 0
    assert pruned.begin_state == 2


def test_ngram_lm_knows_its_words_and_counts(pruned):
    assert pruned.words == ["<unk>", "<s>", "</s>", "a", "b", "c"]
    assert [pruned.word_id(word) for word in ("</s>", "c", "x", "")] == [NGramLM.END, 5, 0, 0]
    assert (pruned.order, pruned.counts, pruned.first_nodes) == (3, [6, 4, 2], [1, 7, 11, 13])
    assert repr(pruned) == "NGramLM(order=3, n-grams=[6, 4, 2])"


def assert_same(lm, other):
    assert (lm.order, lm.words, lm.begin_state) == (other.order, other.words, other.begin_state)
    for name, array in lm.arrays._asdict().items():
        np.testing.assert_array_equal(array, getattr(other.arrays, name), strict=True)


def test_save_and_load_round_trip(pruned, tmp_path):
    pruned.words[5] = "größe"
    pruned.save(tmp_path / "lm.safetensors")
    loaded = NGramLM.load(str(tmp_path / "lm.safetensors"))
    assert_same(loaded, pruned)
    assert loaded.score("a größe") == pruned.score("a größe")
    assert [path.name for path in tmp_path.glob("lm.*")] == ["lm.safetensors"]


def test_save_over_the_file_of_a_loaded_model_leaves_it_working(pruned, tmp_path):
    path = tmp_path / "lm.safetensors"
    pruned.save(path)
    loaded = NGramLM.load(path)
    NGramLM.from_text(["x"], 1).save(path)
    assert_same(loaded, pruned)
    assert NGramLM.load(path).words[3:] == ["x"]
    loaded.save(path)
    assert_same(NGramLM.load(path), pruned)


def test_save_into_a_missing_folder_raises(pruned, tmp_path):
    with pytest.raises(OSError, match=r"missing.lm\.safetensors cannot be written"):
        pruned.save(tmp_path / "missing" / "lm.safetensors")


def million_bigrams():
    vocab = 1_000
    words, zeros = np.arange(vocab), np.zeros(vocab, dtype=np.int64)
    unigrams = NodeRows(zeros, words, zeros, np.full(vocab, -3.0), np.full(vocab, -1.0))
    parent, word = np.repeat(words + 1, vocab), np.tile(words, vocab)
    probs = -(1 + np.arange(len(word)) % 7.0)
    return NGramLM(
        2,
        [f"w{index}" for index in words],
        join_orders([unigrams, NodeRows(parent, word, word + 1, probs, probs * 0)]),
    )


def test_load_a_million_ngrams(tmp_path):
    million_bigrams().save(tmp_path / "lm.safetensors")
    lm = NGramLM.load(tmp_path / "lm.safetensors")
    assert lm.word_id("w999") == 999
    # Node of "w2 w5": 1,000 unigrams, then 2 rows of 1,000.
    assert score_word(lm.arrays, 3, 5) == (-(1 + 2_005 % 7), 6)


def test_load_maps_the_file_and_never_writes_into_it(pruned, tmp_path):
    path = tmp_path / "lm.safetensors"
    pruned.save(path)
    before = path.read_bytes()
    arrays = NGramLM.load(path).arrays
    assert not any(array.flags.owndata for array in arrays)
    arrays.log10_prob[:] = 0.0
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\\data\\\nngram 1=3\n", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 100])
def test_load_other_file_raises(tmp_path, content):
    path = tmp_path / "lm.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"lm\.safetensors is not in the form .*NGramLM\.from_arpa"):
        NGramLM.load(path)


def test_load_other_tensors_raise(tmp_path):
    save_file({"weight": np.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"model\.safetensors is not in the form 'hf_speechft n-gram model, version 1'"
    ):
        NGramLM.load(tmp_path / "model.safetensors")


def test_load_truncated_file_raises(pruned, tmp_path):
    path = tmp_path / "lm.safetensors"
    pruned.save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="or is damaged"):
        NGramLM.load(path)


def test_saved_file_is_read_by_safetensors(pruned, tmp_path):
    from safetensors import safe_open

    pruned.save(tmp_path / "lm.safetensors")
    with safe_open(tmp_path / "lm.safetensors", framework="numpy") as file:
        assert file.metadata()["order"] == "3"
        np.testing.assert_array_equal(file.get_tensor("word"), pruned.arrays.word)
        assert file.get_tensor("words").tobytes() == b"<unk>\n<s>\n</s>\na\nb\nc"


@pytest.mark.parametrize("is_loaded", [False, True])
def test_ngram_lm_pickles_and_copies(pruned, tmp_path, is_loaded):
    if is_loaded:
        pruned.save(tmp_path / "lm.safetensors")
        pruned = NGramLM.load(tmp_path / "lm.safetensors")
    pruned.score("a b")
    for other in (pickle.loads(pickle.dumps(pruned)), copy.copy(pruned), copy.deepcopy(pruned)):
        assert_same(other, pruned)
        assert other.score("b a c") == pruned.score("b a c")


def test_score_in_threads_is_the_same(pruned):
    sentences = [" ".join(words) for words in itertools.product("abcx", repeat=3)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(pruned.score, sentences)) == [pruned.score(sentence) for sentence in sentences]


def test_header_length_is_little_endian_and_tensors_are_aligned(pruned, tmp_path):
    """What `load` relies on, held against the format's description."""
    path = tmp_path / "lm.safetensors"
    pruned.save(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    starts = [header[name]["data_offsets"][0] for name in pruned.arrays._fields]
    assert all((8 + length + start) % 4 == 0 for start in starts)
    assert math.isclose(np.frombuffer(content, "<f4", 1, 8 + length + header["log10_prob"]["data_offsets"][0])[0], 0)
