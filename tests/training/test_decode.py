import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hf_speechft import SpeechBertTokenizer
from hf_speechft.decoding import CTCDecoder
from hf_speechft.training import decode
from hf_speechft.training.decode import NBEST, DecodingPlan, decode_finally
from hf_speechft.training.tuning import emissions, tune_decoder

TEXTS = ["ab a", "b", "a ba b"]


def make_split(seed):
    random = np.random.default_rng(seed)
    sounds = [(random.standard_normal(size) * 0.1).tolist() for size in (8_000, 12_345, 6_000)]
    audio = [{"array": sound, "sampling_rate": 16_000} for sound in sounds]
    return Dataset.from_dict({"audio": audio, "text": TEXTS})


@pytest.fixture
def language_model(tmp_path):
    """A folder with a causal language model that has random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokens = ["[UNK]", "<s>", "a", "b", "ab", "ba"]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    options = {"unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(tokens), n_embd=16, n_layer=1, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    return str(tmp_path)


def make_plan(rescoring_model=None):
    return DecodingPlan(
        beam_width=8, lm_order=2, lm_lines=TEXTS, rescoring_model=rescoring_model, batch_size=2, show_progress=False
    )


def test_emissions_of_a_batch_equal_those_of_each_clip(recogniser):
    model, processor = recogniser
    split = make_split(0)
    batches = list(emissions(model, processor, split, batch_size=2, show_progress=False, description=""))
    assert [len(batch) for batch in batches] == [2, 1]
    for row, log_probs in zip(split, sum(batches, []), strict=True):
        clip = np.array(row["audio"]["array"], np.float32)
        logits = model(**processor(audio=clip, sampling_rate=16_000)).logits
        np.testing.assert_allclose(log_probs, logits[0].log_softmax(-1).detach(), atol=1e-4)


def test_decode_finally_gives_each_decoding_and_the_decoder_it_was_made_with(recogniser, language_model):
    model, processor = recogniser
    test = make_split(1)
    decodings, decoder = decode_finally(model, processor, make_split(0), test, make_plan(language_model))
    names = ["beam search", "beam search, 2-gram", f"{NBEST} best rescored"]
    assert [one.name for one in decodings] == names
    assert decodings[1].settings == {
        "beam_width": 8,
        "lm_order": 2,
        "lm_weight": decoder.lm_weight,
        "word_bonus": decoder.word_bonus,
        "unknown_word_score": decoder.unknown_word_score,
    }
    assert set(decodings[2].settings) - set(decodings[1].settings) == {
        "rescoring_model", "rescoring_weight", "rescoring_word_bonus",
    }  # fmt: skip
    plain = CTCDecoder.from_processor(processor, beam_width=8)
    for row, beam, with_lm in zip(test, decodings[0].hypotheses, decodings[1].hypotheses, strict=True):
        clip = np.array(row["audio"]["array"], np.float32)
        log_probs = model(**processor(audio=clip, sampling_rate=16_000)).logits.log_softmax(-1)
        assert plain.decode(log_probs)[0][0].text == beam
        assert decoder.decode(log_probs)[0][0].text == with_lm


def test_decode_finally_without_word_marks_has_a_language_model_of_characters(recogniser, tmp_path, monkeypatch):
    model, processor = recogniser
    units = ["<pad>", "<unk>", "打", "开", "灯"]
    (tmp_path / "vocab.json").write_text(json.dumps({unit: index for index, unit in enumerate(units)}))
    processor.tokenizer = SpeechBertTokenizer(str(tmp_path / "vocab.json"))
    splits = [make_split(seed).remove_columns("text").add_column("text", ["打 开灯", "灯", "开 "]) for seed in (0, 1)]
    plan = replace(make_plan(), lm_lines=["打开灯", "灯 打开"])
    given = []
    monkeypatch.setattr(decode, "tune_decoder", lambda *args: given.append(args[2]) or tune_decoder(*args))
    decodings, decoder = decode_finally(model, processor, *splits, plan)
    assert given == [["打开灯", "灯", "开"]]
    assert decoder.lm.words[3:] == ["打", "开", "灯"]
    assert all(decodings[0].hypotheses)
    assert " " not in "".join([*decodings[0].hypotheses, *decodings[1].hypotheses])


@pytest.mark.parametrize("error", [OSError("no such repository"), torch.OutOfMemoryError("out of memory")])
def test_decode_finally_keeps_the_rest_where_the_rescoring_model_fails(recogniser, monkeypatch, caplog, error):
    def fail(name, revision):
        assert (name, revision) == ("lab/model", None)
        raise error

    monkeypatch.setattr(decode.SentenceScorer, "from_pretrained", fail)
    decodings, _ = decode_finally(*recogniser, make_split(0), make_split(1), make_plan("lab/model"))
    assert [one.name for one in decodings] == ["beam search", "beam search, 2-gram"]
    assert f"no rescoring by lab/model ({error}); `hf-speechft tune" in caplog.text
    monkeypatch.setattr(decode.SentenceScorer, "from_pretrained", lambda *_, **__: {}["a bug"])
    with pytest.raises(KeyError):
        decode_finally(*recogniser, make_split(0), make_split(1), make_plan("lab/model"))


def test_decode_finally_keeps_the_rest_where_a_hypothesis_has_too_many_tokens(recogniser, language_model, monkeypatch):
    def fail(self, texts):
        raise ValueError("a text has more tokens than positions")

    monkeypatch.setattr(decode.SentenceScorer, "score", fail)
    decodings, _ = decode_finally(*recogniser, make_split(0), make_split(1), make_plan(language_model))
    assert [one.name for one in decodings] == ["beam search", "beam search, 2-gram"]


def test_decode_finally_without_a_head_that_scores_text_says_so(recogniser, text_checkpoint, caplog):
    with caplog.at_level(logging.INFO, logger="hf_speechft"):
        decodings, _ = decode_finally(*recogniser, make_split(0), make_split(1), make_plan(str(text_checkpoint)))
    assert len(decodings) == 2
    assert "no rescoring" in caplog.text
    assert "cannot score text" in caplog.text
