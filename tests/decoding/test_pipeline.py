"""The pipeline: stock arguments give what transformers gives, the others what a CTCDecoder gives for the logits."""

import json
from difflib import SequenceMatcher
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutomaticSpeechRecognitionPipeline,
    BertConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    pipeline,
)
from transformers.modeling_outputs import CausalLMOutput

from hf_speechft import SpeechBertConfig, SpeechBertFeatureExtractor, SpeechBertForCTC, SpeechBertTokenizer
from hf_speechft.decoding import CTCDecoder
from hf_speechft.decoding.pipeline import CTCPipeline, find_decoder
from hf_speechft.decoding.rescoring import Rescoring
from tests.hub_server import HubServer, Repository, StoredFile

TASK = "automatic-speech-recognition"
RATE_HZ = 16_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"
STEP_SAMPLES = {"speechbert": 640, "wav2vec2": 320}
GRAMMAR = "#JSGF V1.0; grammar home; public <command> = turn (on | off) [now];"


def make_speechbert(folder):
    units = ["<pad>", "<unk>", "▁", *LETTERS, "▁the", "ing"]
    (folder / "vocab.json").write_text(json.dumps({unit: index for index, unit in enumerate(units)}))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = SpeechBertConfig(backbone_config=BertConfig(**sizes), vocab_size=len(units))
    model = SpeechBertForCTC(config)
    with torch.no_grad():
        model.head.weight.normal_()  # best units vary from step to step
        model.head.bias[1] = -1000.0  # never <unk>
    return model, SpeechBertTokenizer(str(folder / "vocab.json")), SpeechBertFeatureExtractor()


def make_wav2vec2(folder):
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    config = Wav2Vec2Config(
        vocab_size=len(tokens) + 2,  # more outputs than tokens, as some models have
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.weight.normal_()
        model.lm_head.bias[[1, 2, 3, -2, -1]] = -1000.0
    return (
        model,
        Wav2Vec2CTCTokenizer(str(folder / "vocab.json")),
        Wav2Vec2FeatureExtractor(return_attention_mask=True),
    )


@pytest.fixture(scope="module", params=[make_speechbert, make_wav2vec2], ids=["speechbert", "wav2vec2"])
def parts(request, tmp_path_factory):
    torch.manual_seed(0)
    model, tokenizer, extractor = request.param(tmp_path_factory.mktemp("vocab"))
    return {"model": model.eval(), "tokenizer": tokenizer, "feature_extractor": extractor, "device": "cpu"}


@pytest.fixture(scope="module")
def stock(parts):
    return AutomaticSpeechRecognitionPipeline(**parts)


@pytest.fixture(scope="module")
def ours(parts):
    return pipeline(TASK, **parts)


@pytest.fixture
def hear(monkeypatch, parts):
    """Make the model hear a text, whatever the sound: a blank step, then for each character two and a blank one."""
    tokenizer = parts["tokenizer"]

    def hear_text(text, doubt=0.2):
        delimiter = tokenizer.word_delimiter_token
        ids = tokenizer.convert_tokens_to_ids([delimiter if character == " " else character for character in text])
        best = [0, *(step for token_id in ids for step in (token_id, token_id, 0))]
        vocab = parts["model"].config.vocab_size
        probabilities = np.random.default_rng(0).dirichlet(np.ones(vocab), len(best)) * doubt
        probabilities[np.arange(len(best)), best] += 1 - doubt
        logits = torch.from_numpy(np.log(probabilities) + 3.0)[None]  # no log-probabilities yet
        monkeypatch.setattr(parts["model"], "forward", lambda *_, **__: CausalLMOutput(logits=logits))
        return logits.log_softmax(-1)

    return hear_text


def sound(duration_s, seed=0):
    rng = np.random.default_rng(seed)
    samples = round(duration_s * RATE_HZ)
    pitch_hz = np.repeat(rng.uniform(150, 4000, samples // 1280 + 1), 1280)[:samples]
    tones = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ)
    return (tones + 0.02 * rng.standard_normal(samples)).astype(np.float32)


def decoder_for(parts, **options):
    """A decoder made by hand, for both models."""
    tokenizer, vocab = parts["tokenizer"], parts["model"].config.vocab_size
    tokens = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_ids) - {tokenizer.convert_tokens_to_ids(tokenizer.word_delimiter_token)}
    return CTCDecoder(["" if i in special else tokens.get(i, "") for i in range(vocab)], 0, **options)


def logits_of(parts, waveform):
    inputs = parts["feature_extractor"](
        waveform, sampling_rate=RATE_HZ, return_tensors="pt", return_attention_mask=True
    )
    with torch.no_grad():
        return parts["model"](**inputs).logits


SOUND = sound(3.0)  # longer than any text that the model is made to hear

STOCK_CALLS = {
    "plain": lambda pipe: pipe(sound(2.0)),
    "word": lambda pipe: pipe(sound(2.0), return_timestamps="word"),
    "char": lambda pipe: pipe(sound(2.0), return_timestamps="char"),
    "chunks": lambda pipe: pipe(sound(5.0), chunk_length_s=2.0, stride_length_s=(0.4, 0.4), return_timestamps="word"),
    "batch": lambda pipe: pipe([sound(1.0), sound(2.0, 1)], batch_size=2),
    "chunk-batch": lambda pipe: pipe([sound(3.0), sound(1.5, 1)], chunk_length_s=1.0, batch_size=3),
    "dictionary": lambda pipe: pipe({"raw": sound(1.0), "sampling_rate": RATE_HZ, "stride": (640, 640), "id": 7}),
    "greedy": lambda pipe: pipe(sound(2.0), num_beams=1),
}


@pytest.mark.parametrize("call", STOCK_CALLS.values(), ids=STOCK_CALLS)
def test_call_with_stock_arguments_gives_stock_result(stock, ours, call):
    assert type(ours) is CTCPipeline
    expected = call(stock)
    assert call(ours) == expected
    assert json.dumps(expected)


def test_call_num_beams_matches_decoder(parts, ours):
    waveform = sound(2.0)
    best, *_ = decoder_for(parts, beam_width=4).decode(logits_of(parts, waveform).log_softmax(-1))[0]
    assert ours(waveform, num_beams=4) == {"text": best.text}
    assert best.text


def test_stock_batch_of_our_model_is_invariant_to_padding(tmp_path):
    torch.manual_seed(0)
    model, tokenizer, extractor = make_speechbert(tmp_path)
    pipe = AutomaticSpeechRecognitionPipeline(model.eval(), extractor, tokenizer, device="cpu")
    clips = [sound(1.0), sound(2.0, 1), sound(0.5, 2)]
    for options in ({}, {"return_timestamps": "word"}, {"return_timestamps": "char"}, {"chunk_length_s": 0.8}):
        alone = [pipe(clip, **options) for clip in clips]
        assert pipe(clips, batch_size=3, **options) == alone
    assert all(len(result["text"]) > 5 for result in alone)


def test_call_batch_is_invariant_to_padding(ours):
    clips = [sound(1.0), sound(2.0, 1), sound(0.5, 2)]
    alone = [ours(clip, return_nbest=2) for clip in clips]
    together = ours(clips, return_nbest=2, batch_size=3)
    for one, other in zip(alone, together, strict=True):
        assert other["text"] == one["text"]
        assert [n["score"] for n in other["nbest"]] == pytest.approx([n["score"] for n in one["nbest"]], rel=1e-4)


@pytest.fixture
def decoded(monkeypatch):
    """What the decoder is given."""
    arrays = []
    decode = CTCDecoder.decode

    def record_and_decode(decoder, log_probs, *args, **options):
        arrays.append(log_probs)
        return decode(decoder, log_probs, *args, **options)

    monkeypatch.setattr(CTCDecoder, "decode", record_and_decode)
    return arrays


@pytest.mark.parametrize("return_timestamps", ["word", "char"])
def test_call_searches_long_recordings_passage_by_passage(ours, decoded, return_timestamps):
    recording = sound(100.0)
    found = ours(recording, chunk_length_s=3.0, num_beams=4, return_timestamps=return_timestamps)
    longest = round(30.0 * RATE_HZ / ours._align_to)
    assert len(decoded) >= 4
    assert max(log_probs.shape[1] for log_probs in decoded) <= longest
    assert sum(log_probs.shape[1] for log_probs in decoded) > 3 * longest
    times = [time for chunk in found["chunks"] for time in chunk["timestamp"]]
    assert times == sorted(times)
    assert 95 < times[-1] <= 100.1
    texts = [chunk["text"] for chunk in found["chunks"]]
    assert found["text"] == (" " if return_timestamps == "word" else "").join(texts)
    whole = ours(recording, chunk_length_s=3.0, num_beams=4, return_nbest=1)["text"]  # n-best lists are of all of it
    assert decoded[-1].shape[1] > 3 * longest
    assert SequenceMatcher(None, found["text"], whole).ratio() > 0.95


@pytest.mark.parametrize("batch_size", [1, 3])
def test_call_chunks_are_joined_as_the_stock_pipeline_joins_them(monkeypatch, parts, stock, ours, decoded, batch_size):
    options = {"chunk_length_s": 2.0, "stride_length_s": 0.4, "batch_size": batch_size}
    ours(sound(6.3), num_beams=2, **options)
    ids = []
    monkeypatch.setattr(type(parts["tokenizer"]), "decode", lambda _, items, **__: ids.append(items) or "")
    stock(sound(6.3), **options)
    assert len(decoded) == len(ids) == 1
    np.testing.assert_array_equal(decoded[0][0].argmax(-1), ids[0])
    np.testing.assert_allclose(np.exp(decoded[0]).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("return_timestamps", ["word", "char"])
def test_call_timestamps_of_clear_speech_are_those_of_the_stock_pipeline(hear, stock, ours, return_timestamps):
    hear("turn on the light", doubt=0.01)
    expected = stock(SOUND, return_timestamps=return_timestamps)
    found = ours(SOUND, num_beams=8, return_timestamps=return_timestamps)
    assert found == expected
    assert len(found["chunks"]) == (4 if return_timestamps == "word" else 17)


def test_call_word_timestamps_are_the_words_of_the_hypothesis(parts, ours):
    waveform = sound(3.0)
    best = decoder_for(parts).decode(logits_of(parts, waveform).log_softmax(-1))[0][0]
    step_s = STEP_SAMPLES[parts["model"].config.model_type] / RATE_HZ
    result = ours(waveform, num_beams=32, return_timestamps="word")
    assert [chunk["text"] for chunk in result["chunks"]] == [word.text for word in best.words]
    times = [time for chunk in result["chunks"] for time in chunk["timestamp"]]
    assert times == pytest.approx([step * step_s for word in best.words for step in (word.start_step, word.end_step)])


def test_call_hotwords_change_the_text(hear, ours):
    hear("turn of", doubt=0.6)
    assert ours(SOUND, num_beams=32)["text"] == ours(SOUND, hotwords={"turn on": 0.1})["text"] == "turn of"
    assert ours(SOUND, hotwords={"turn on": 20.0})["text"].startswith("turn on")
    assert ours(SOUND, hotwords=["turn on"]) == ours(SOUND, hotwords={"turn on": 5.0})


@pytest.mark.parametrize("phrases", [["turn on", "turn off"], GRAMMAR], ids=["list", "jsgf"])
def test_call_phrases_alone_come_out(hear, ours, phrases):
    hear("turn of")
    missed = ours(SOUND, phrases=phrases)
    assert missed["text"] == "turn off"
    assert missed["rejection_score"] > 1.0
    hear("turn on")
    found = ours(SOUND, phrases=phrases, return_timestamps="word")
    assert found["text"] == "turn on"
    assert found["rejection_score"] == pytest.approx(0.0, abs=0.1)
    assert [chunk["text"] for chunk in found["chunks"]] == ["turn", "on"]


def test_call_changed_list_of_phrases_counts(hear, ours):
    hear("turn of")
    phrases = ["turn on"]
    assert ours(SOUND, phrases=phrases)["text"] == "turn on"
    phrases.append("turn off")
    assert ours(SOUND, phrases=phrases)["text"] == "turn off"


def test_call_return_nbest_describes_the_hypotheses(hear, parts, ours):
    log_probs = hear("turn on", doubt=0.5)
    hypotheses = decoder_for(parts).decode(log_probs, nbest=3)[0]
    result = ours(SOUND, return_nbest=3)
    step_s = STEP_SAMPLES[parts["model"].config.model_type] / RATE_HZ
    assert result["text"] == result["nbest"][0]["text"] == "turn on"
    assert [entry["text"] for entry in result["nbest"]] == [hypothesis.text for hypothesis in hypotheses]
    assert [entry["score"] for entry in result["nbest"]] == pytest.approx([one.score for one in hypotheses], rel=1e-5)
    turn, on = result["nbest"][0]["words"]
    assert (turn["text"], on["text"]) == ("turn", "on")
    assert turn["timestamp"] == pytest.approx((step_s, 12 * step_s))
    assert on["timestamp"] == pytest.approx((16 * step_s, 21 * step_s))
    assert result["nbest"][0]["confidence"] == pytest.approx((turn["confidence"] + on["confidence"]) / 2)
    assert 0 < turn["confidence"] <= 1
    assert json.dumps(result)


def test_call_silence_has_no_confidence(hear, ours):
    hear("")
    result = ours(SOUND, return_nbest=1)
    assert result["text"] == ""
    assert result["nbest"] == [{"text": "", "score": pytest.approx(0.0, abs=0.5), "confidence": None, "words": []}]


def test_init_options_hold_for_each_call_and_calls_add_to_them(hear, parts):
    pipe = pipeline(TASK, **parts, phrases=["turn on", "turn off"], num_beams=16)
    hear("turn of")
    assert pipe(SOUND)["text"] == "turn off"
    assert [entry["text"] for entry in pipe(SOUND, return_nbest=2)["nbest"]] == ["turn off", "turn on"]
    assert pipe(SOUND, phrases=["turn on"])["text"] == "turn on"
    assert pipe(SOUND, hotwords={"turn on": 40.0})["text"] == "turn on"
    assert "nbest" not in pipe(SOUND)


def test_init_decoder_is_used_and_its_options_replaced(hear, parts, stock):
    decoder = decoder_for(parts, phrases=["turn on", "lights off"], beam_width=8)
    pipe = pipeline(TASK, **parts, decoder=decoder)
    hear("turn of")
    assert pipe(SOUND)["text"] == "turn on"
    assert pipe(SOUND, phrases=["turn off"])["text"] == "turn off"
    assert pipe(SOUND, hotwords={"lights off": 100.0})["text"] == "lights off"  # still one of the phrases
    assert pipe(SOUND, num_beams=1) == stock(SOUND) == {"text": "turn of"}
    assert pipe.decoder is decoder


class LikesOn:
    """Scores of a language model that wants to hear one word."""

    def score(self, texts):
        return np.array([0.0 if text == "turn on" else -100.0 for text in texts])


def test_init_decoder_that_rescores_does_so_beside_other_options_too(hear, parts):
    phrases = ["turn off", "turn on"]
    decoder = decoder_for(parts, phrases=phrases, rescoring=Rescoring(LikesOn(), weight=1.0))
    pipe = pipeline(TASK, **parts, decoder=decoder)
    hear("turn of")
    assert pipe(SOUND)["text"] == pipe(SOUND, num_beams=40)["text"] == "turn on"


def test_extra_entries_come_back_with_a_beam_too(ours):
    request = {"raw": sound(3.0), "sampling_rate": RATE_HZ, "id": 7}
    assert ours(dict(request), num_beams=2)["id"] == [7]
    assert ours(dict(request), num_beams=2, chunk_length_s=2.0)["id"] == ours(dict(request), chunk_length_s=2.0)["id"]


def save(parts, folder):
    for part in ("model", "tokenizer", "feature_extractor"):
        parts[part].save_pretrained(folder)


def test_decoder_folder_beside_the_model_is_used(parts, stock, tmp_path):
    save(parts, tmp_path)
    decoder_for(parts, phrases=["turn on", "turn off"]).save_pretrained(tmp_path / "decoder")
    pipe = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert pipe(sound(2.0))["text"] in ("turn on", "turn off")
    assert pipe(sound(2.0), phrases=["stop"])["text"] == "stop"
    assert pipe(sound(2.0), num_beams=1) == stock(sound(2.0))


def test_decoder_of_another_vocabulary_beside_the_model_is_left_alone(parts, stock, tmp_path, caplog):
    save(parts, tmp_path)
    CTCDecoder(["<pad>", "|", "a"], 0).save_pretrained(tmp_path / "decoder")
    pipe = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert pipe(sound(2.0)) == stock(sound(2.0))
    vocab = parts["model"].config.vocab_size
    assert f"has 3 tokens and the model {vocab}; it is not used" in caplog.text


def test_damaged_decoder_beside_the_model_raises(parts, tmp_path):
    save(parts, tmp_path)
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "decoder_config.json").write_text("{")
    with pytest.raises(ValueError, match="decoder_config.json is no JSON"):
        pipeline(TASK, model=str(tmp_path), device="cpu")


def named(name):
    return SimpleNamespace(name_or_path=name, config=SimpleNamespace())


@pytest.mark.parametrize("name", ["", "{folder}", "{folder}/gone", "user/name", "no repository at all"])
def test_find_decoder_without_one_gives_none(tmp_path, name):
    assert find_decoder(named(name.format(folder=tmp_path))) is None


def test_find_decoder_in_a_hub_repository_online_and_offline(monkeypatch, tmp_path):
    CTCDecoder(["<pad>", "|", "a"], 0, hotwords=["aa"]).save_pretrained(tmp_path / "decoder")
    constants = huggingface_hub.constants
    with HubServer() as hub:
        for name, files in {"user/with": (tmp_path / "decoder").iterdir(), "user/without": []}.items():
            hub.repositories[name] = Repository(private=False)
            hub.repositories[name].commit(
                "files", {f"decoder/{path.name}": StoredFile(path.read_bytes(), is_lfs=False) for path in files}
            )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        assert find_decoder(named("user/with")) is None  # offline, and nothing is cached
        assert not hub.requests
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        folder = find_decoder(named("user/with"))
        assert CTCDecoder.from_pretrained(folder).hotwords == ["aa"]
        assert find_decoder(named("user/without")) is None
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.requests.clear()
        assert find_decoder(named("user/with")) == folder
        assert not hub.requests


@pytest.fixture(scope="module")
def whisper():
    """A random Whisper whose tokens are bytes."""
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    vocab = {token: index for index, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *special])}
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    end = vocab["<|endoftext|>"]
    config = WhisperConfig(
        vocab_size=len(vocab),
        num_mel_bins=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_source_positions=100,
        max_target_positions=40,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=vocab["<|startoftranscript|>"],
        suppress_tokens=[],
        begin_suppress_tokens=[],
        **sizes,
    )
    torch.manual_seed(0)
    return {
        "model": WhisperForConditionalGeneration(config),
        "tokenizer": WhisperTokenizer(vocab=vocab, merges=[], unk_token="<|endoftext|>"),
        "feature_extractor": WhisperFeatureExtractor(feature_size=16, chunk_length=2),
        "device": "cpu",
    }


def test_whisper_gives_stock_result_with_num_beams_too(whisper):
    for options in ({"max_new_tokens": 8, "num_beams": 2}, {"max_new_tokens": 8, "num_beams": 1}):
        expected = AutomaticSpeechRecognitionPipeline(**whisper)(sound(1.0), generate_kwargs=dict(options))
        assert pipeline(TASK, **whisper)(sound(1.0), **options) == expected
        assert pipeline(TASK, **whisper, **options)(sound(1.0)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hotwords": ["on"]}, "hotwords needs a CTC model, decoded by a CTCDecoder; WhisperForConditionalGeneration"),
        (
            {"phrases": ["on"], "return_nbest": 2},
            "phrases, return_nbest needs a CTC model.* runs as 'seq2seq_whisper'",
        ),
        ({"decoder": CTCDecoder(["<pad>", "a"], 0)}, "decoder needs a CTC model"),
    ],
)
def test_whisper_with_ctc_arguments_raises(whisper, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(TASK, **whisper, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0; it needs to be 1 or more"),
        ({"return_nbest": 0}, "return_nbest is 0; it needs to be 1 or more"),
        ({"hotwords": ["größer"]}, "hot word 'größer' cannot be written"),
        ({"phrases": []}, "phrases is an empty list"),
        ({"phrases": "turn on"}, "expected the header '#JSGF V1.0;'"),
        ({"return_timestamps": True, "num_beams": 2}, "Set `return_timestamps='char'`"),
    ],
)
def test_call_bad_arguments_raise(ours, options, message):
    with pytest.raises(ValueError, match=message):
        ours(sound(1.0), **options)
