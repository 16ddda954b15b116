"""Forced alignment against enumeration of all alignments, against torchaudio, and by hand."""

import json
from itertools import groupby, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, Wav2Vec2CTCTokenizer

from hf_speechft import SpeechBertConfig, SpeechBertForCTC, SpeechBertTokenizer
from hf_speechft.decoding.align import TokenSpan, align_tokens, align_words, viterbi_path, word_spans
from hf_speechft.model.feature_extraction_speechbert import SpeechBertFeatureExtractor

BLANK = 0
STEP_S = 0.04
UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz'"]


def random_log_probs(steps, vocab, seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.full(vocab, 0.5), size=steps).clip(1e-6)
    return np.log(probabilities / probabilities.sum(axis=1, keepdims=True))  # (steps, vocab)


def ids_of(path, tokens):
    """Id of each step: a state's token, or the blank."""
    return [tokens[state // 2] if state % 2 else BLANK for state in path.tolist()]


def collapse(ids):
    return [unit for unit, _ in groupby(ids) if unit != BLANK]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.json"
    path.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}), encoding="utf-8")
    return SpeechBertTokenizer(str(path))


@pytest.fixture(scope="module")
def model_log_probs():
    """Output `(steps, vocab)` of a small model with random weights for 2 s of noise."""
    torch.manual_seed(0)
    backbone = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = SpeechBertForCTC(SpeechBertConfig(backbone_config=backbone, vocab_size=len(UNITS))).eval()
    with torch.inference_mode():
        model.head.weight.normal_()
        inputs = SpeechBertFeatureExtractor()(0.1 * torch.randn(32_000), sampling_rate=16_000, return_tensors="pt")
        return model(**inputs).logits[0].log_softmax(dim=-1)


def steps_of(tokenizer, text, confidence=0.9):
    """Log-probabilities in which each character of `text` has a step of its own; `-` is a blank, `_` a space."""
    ids = [BLANK if char == "-" else tokenizer.convert_tokens_to_ids("▁" if char == "_" else char) for char in text]
    probabilities = np.full((len(ids), len(tokenizer)), (1 - confidence) / (len(tokenizer) - 1))
    probabilities[np.arange(len(ids)), ids] = confidence
    return np.log(probabilities)


@given(
    tokens=st.lists(st.integers(1, 2), max_size=4),
    steps=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_viterbi_path_matches_enumeration_of_all_alignments(tokens, steps, seed):
    log_probs = random_log_probs(steps, 3, seed)
    scores = {
        ids: log_probs[np.arange(steps), ids].sum()
        for ids in product(range(3), repeat=steps)
        if collapse(ids) == tokens
    }
    path = viterbi_path(log_probs, np.array(tokens, np.int64), BLANK)
    assert path.dtype == np.int32
    if not scores:
        assert path.tolist() == [-1] * steps
        return
    found = tuple(ids_of(path, tokens))
    assert found in scores
    assert log_probs[np.arange(steps), found].sum() == pytest.approx(max(scores.values()), abs=1e-12)


@pytest.mark.filterwarnings("ignore:.*forced_align.*")
@pytest.mark.parametrize("seed", range(25))
def test_viterbi_path_random_input_matches_torchaudio(seed):
    functional = pytest.importorskip("torchaudio").functional
    rng = np.random.default_rng(seed)
    vocab, count = int(rng.integers(2, 40)), int(rng.integers(1, 40))
    tokens = rng.integers(1, vocab, count)
    steps = count + int((tokens[1:] == tokens[:-1]).sum()) + int(rng.integers(0, 100))
    log_probs = random_log_probs(steps, vocab, seed).astype(np.float32)
    expected, _ = functional.forced_align(
        torch.from_numpy(log_probs)[None], torch.from_numpy(tokens)[None].int(), blank=BLANK
    )
    assert ids_of(viterbi_path(log_probs, tokens, BLANK), tokens.tolist()) == expected[0].tolist()


@pytest.mark.filterwarnings("ignore:.*(forced_align|merge_tokens).*")
@pytest.mark.parametrize("text", ["a", "three or four", "all the bookkeepers need some sleep"])
def test_align_tokens_model_output_matches_torchaudio(model_log_probs, tokenizer, text):
    functional = pytest.importorskip("torchaudio").functional
    log_probs = model_log_probs[None]  # (1, steps, vocab)
    tokens = tokenizer(text)["input_ids"]
    path, scores = functional.forced_align(log_probs, torch.tensor([tokens], dtype=torch.int32), blank=BLANK)
    expected = functional.merge_tokens(path[0], scores[0], blank=BLANK)
    spans = align_tokens(model_log_probs, tokens, BLANK)
    assert [(span.token_id, span.start_step, span.end_step) for span in spans] == [
        (span.token, span.start, span.end) for span in expected
    ]
    np.testing.assert_allclose([span.log_prob for span in spans], [span.score for span in expected], rtol=1e-5)


def test_viterbi_path_without_tokens_or_steps_is_all_blank_or_empty():
    log_probs = random_log_probs(4, 3, 0)
    assert viterbi_path(log_probs, np.empty(0, np.int64), BLANK).tolist() == [0, 0, 0, 0]
    assert viterbi_path(log_probs[:0], np.array([1]), BLANK).tolist() == []


def test_viterbi_path_masked_token_is_impossible():
    log_probs = random_log_probs(4, 3, 0)
    log_probs[:, 2] = -np.inf
    assert viterbi_path(log_probs, np.array([1, 2]), BLANK).tolist() == [-1, -1, -1, -1]
    assert viterbi_path(log_probs, np.array([1]), BLANK).min() >= 0


def test_align_tokens_repeat_keeps_its_blank():
    """The best unit of each step is 1 1 1: as two tokens they need a blank between them."""
    log_probs = np.log([[0.1, 0.9], [0.3, 0.7], [0.2, 0.8]])
    assert align_tokens(log_probs, [1, 1], BLANK) == [
        TokenSpan(1, 0, 1, pytest.approx(np.log(0.9))),
        TokenSpan(1, 2, 3, pytest.approx(np.log(0.8))),
    ]


def test_align_tokens_log_prob_is_the_mean_over_steps():
    (span,) = align_tokens(np.log([[0.1, 0.9], [0.4, 0.6], [0.8, 0.2]]), [1], BLANK)
    assert span == TokenSpan(1, 0, 2, pytest.approx((np.log(0.9) + np.log(0.6)) / 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_align_tokens_is_invariant_to_type_and_memory_layout(dtype):
    log_probs = random_log_probs(12, 5, 3)
    expected = [(span.start_step, span.end_step) for span in align_tokens(log_probs, [1, 3, 3], BLANK)]
    tensor = torch.from_numpy(log_probs.T.copy()).T.to(dtype).requires_grad_()
    assert [(span.start_step, span.end_step) for span in align_tokens(tensor, [1, 3, 3], BLANK)] == expected


def test_align_tokens_without_tokens_gives_no_spans():
    assert align_tokens(random_log_probs(4, 3, 0), [], BLANK) == []


@pytest.mark.parametrize(
    ("token_ids", "blank_id", "message"),
    [
        ([1, 2, 1, 2], 0, r"the recording has 3 steps but its transcript needs 4 \(4 tokens"),
        ([1, 1, 1], 0, r"has 3 steps but its transcript needs 5 \(3 tokens and a blank between each of 2 repeats\)"),
        ([1, 5], 0, r"token id 5 is outside the vocabulary; log_probs has 4 units"),
        ([-1], 0, "token id -1 is outside"),
        ([1, 0], 0, "the token ids hold the blank, 0"),
        ([1], 4, "blank_id is 4; log_probs has 4 units, 0 to 3"),
    ],
)
def test_align_tokens_tokens_that_cannot_be_aligned_raise(token_ids, blank_id, message):
    with pytest.raises(ValueError, match=message):
        align_tokens(random_log_probs(3, 4, 0), token_ids, blank_id)


def test_align_tokens_no_steps_raises():
    with pytest.raises(ValueError, match="the recording has 0 steps but its transcript needs 1"):
        align_tokens(np.empty((0, 4), np.float32), [1], BLANK)


def test_align_tokens_masked_token_raises():
    log_probs = random_log_probs(3, 2, 0)
    log_probs = np.concatenate([log_probs, np.full((3, 1), -np.inf)], axis=1)
    with pytest.raises(ValueError, match="the 2 tokens with the 3 steps has probability 0"):
        align_tokens(log_probs, [1, 2], BLANK)


def test_align_tokens_too_large_a_table_raises():
    log_probs = np.full((90_000, 2), np.log(0.5), np.float32)
    with pytest.raises(ValueError, match=r"aligning 44000 tokens with 90000 steps needs 7.9 GB of memory"):
        align_tokens(log_probs, [1] * 44_000, BLANK)


def test_align_words_gives_times_of_words_and_characters(tokenizer):
    alignment = align_words(steps_of(tokenizer, "--go--_-n-ow-"), "go now", tokenizer, STEP_S)
    steps = [(item.text, round(item.start_s / STEP_S), round(item.end_s / STEP_S)) for item in alignment.words]
    assert steps == [("go", 2, 4), ("now", 8, 12)]
    assert alignment.words[0].start_s == pytest.approx(0.08)
    characters = [
        (item.text, round(item.start_s / STEP_S), round(item.end_s / STEP_S)) for item in alignment.characters
    ]
    assert characters == [("g", 2, 3), ("o", 3, 4), ("n", 8, 9), ("o", 10, 11), ("w", 11, 12)]


def test_align_words_confidence_is_the_mean_probability_of_what_is_said(tokenizer):
    log_probs = steps_of(tokenizer, "g-o")
    go = tokenizer.convert_tokens_to_ids(["g", "o"])
    log_probs[2] = np.log(0.4 / (len(UNITS) - 1))
    log_probs[2, go[1]] = np.log(0.6)
    alignment = align_words(log_probs, "go", tokenizer, STEP_S)
    assert [item.confidence for item in alignment.characters] == [pytest.approx(0.9), pytest.approx(0.6)]
    assert alignment.words[0].confidence == pytest.approx(0.75)


def test_align_words_wrong_transcript_has_low_confidence(tokenizer):
    log_probs = steps_of(tokenizer, "go-_-now")
    alignment = align_words(log_probs, "go sow", tokenizer, STEP_S)
    right, wrong = alignment.words
    assert right.confidence > 0.8
    assert wrong.confidence < 0.65


def test_align_words_units_of_several_characters_share_their_steps(tmp_path):
    units = ["<pad>", "<unk>", "▁", *"abn", "▁an", "an"]
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({unit: index for index, unit in enumerate(units)}), encoding="utf-8")
    tokenizer = SpeechBertTokenizer(str(path))
    ids = [0, 4, 7, 7, 7, 0, 6, 6, 0]  # b, an, ▁an
    probabilities = np.full((len(ids), len(units)), 0.1 / (len(units) - 1))
    probabilities[np.arange(len(ids)), ids] = 0.9
    alignment = align_words(np.log(probabilities), "ban an", tokenizer, step_s=1.0)
    assert [(word.text, word.start_s, word.end_s) for word in alignment.words] == [("ban", 1, 5), ("an", 6, 8)]
    assert [(item.text, item.start_s, item.end_s) for item in alignment.characters] == [
        ("b", 1, 2),
        ("a", 2, 3.5),
        ("n", 3.5, 5),
        ("a", 6, 7),
        ("n", 7, 8),
    ]
    assert [item.confidence for item in alignment.characters] == [pytest.approx(0.9)] * 5


def test_align_words_wav2vec2_tokenizer_works_too(tmp_path):
    units = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B"]
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({unit: index for index, unit in enumerate(units)}), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(str(path))
    ids = [0, 5, 6, 0, 6, 4, 5, 5]  # A B _ B | A A
    probabilities = np.full((len(ids), len(units)), 0.1 / (len(units) - 1))
    probabilities[np.arange(len(ids)), ids] = 0.9
    alignment = align_words(np.log(probabilities), "ABB A", tokenizer, step_s=0.02)
    assert [(word.text, word.start_s, word.end_s) for word in alignment.words] == [
        ("ABB", pytest.approx(0.02), pytest.approx(0.1)),
        ("A", pytest.approx(0.12), pytest.approx(0.16)),
    ]
    assert [item.text for item in alignment.characters] == ["A", "B", "B", "A"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the transcript is empty"),
        (" \n", "the transcript is empty"),
        ("go 5 x ß", "characters that the model does not know: 5 ß;"),
        ("a much longer sentence", "the recording has 8 steps but its transcript needs 22"),
    ],
)
def test_align_words_unusable_transcript_raises(tokenizer, text, message):
    with pytest.raises(ValueError, match=message):
        align_words(steps_of(tokenizer, "go-_-now"), text, tokenizer, STEP_S)


def test_word_spans_run_from_a_words_first_token_to_its_last():
    states = np.array([0, 1, 1, 2, 3, 5, 6, 7, 8])  # tokens 0 to 3 at steps 1-2, 4, 5 and 7
    word_of_token = np.array([0, 0, -1, 1])  # the third token is a space, and the last one wrote words 1 and 2
    assert word_spans(states, word_of_token, 3).tolist() == [[1, 5], [7, 8], [7, 8]]
    assert word_spans(np.full(2, -1), word_of_token, 1).tolist() == [[0, 0]]  # no alignment
