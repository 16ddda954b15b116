"""SpeechBertProcessor: batches of audio and transcripts, and back."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from hf_speechft import SpeechBertFeatureExtractor, SpeechBertProcessor, SpeechBertTokenizer
from hf_speechft.decoding import CTCDecoder

TEXTS = ["turn on the lights", "what time is it", "stop"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A text checkpoint's tokenizer, made here."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    folder = tmp_path_factory.mktemp("checkpoint")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["char", "native"])
def processor(request, checkpoint):
    return SpeechBertProcessor.from_text_pretrained(checkpoint, texts=TEXTS, vocabulary=request.param)


def test_from_text_pretrained_holds_both_parts(processor):
    assert type(processor.feature_extractor) is SpeechBertFeatureExtractor
    assert type(processor.tokenizer) is SpeechBertTokenizer
    assert processor.tokenizer.pad_token_id == 0
    assert processor.model_input_names == ["input_features", "attention_mask", "labels"]


def test_from_text_pretrained_char_reads_no_checkpoint():
    processor = SpeechBertProcessor.from_text_pretrained("no/such-checkpoint", texts=["ab"])
    assert list(processor.tokenizer.get_vocab()) == ["<pad>", "<unk>", "▁", "a", "b"]


def test_from_text_pretrained_passes_options_on(checkpoint):
    processor = SpeechBertProcessor.from_text_pretrained(
        checkpoint, texts=TEXTS, text_normalizer="english", feature_type="log_mel", feature_size=40, sampling_rate=8000
    )
    assert processor.tokenizer.text_normalizer == "english"
    extractor = processor.feature_extractor
    assert (extractor.feature_type, extractor.feature_size, extractor.sampling_rate) == ("log_mel", 40, 8000)
    assert processor(np.zeros(4000, np.float32), sampling_rate=8000)["input_features"].shape[-1] == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": TEXTS, "vocabulary": "words"}, "vocabulary is 'words'; it needs to be one of char, native"),
        ({"texts": []}, "the texts hold no character"),
    ],
)
def test_from_text_pretrained_bad_input_raises(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        SpeechBertProcessor.from_text_pretrained(checkpoint, **options)


def test_call_audio_and_text_gives_a_padded_batch(processor, waveform):
    batch = processor(audio=[waveform, waveform[:16_000]], text=["turn on the lights", "stop"], sampling_rate=16_000)
    assert list(batch) == ["input_features", "attention_mask", "labels"]
    assert batch["input_features"].shape == (2, 298, 80)
    assert batch["input_features"].dtype == torch.float32
    assert batch["attention_mask"].sum(dim=-1).tolist() == [298, 98]
    assert not batch["attention_mask"].is_floating_point()
    labels = batch["labels"]
    assert labels.dtype == torch.int64
    tokens = [len(processor.tokenizer(text)["input_ids"]) for text in ("turn on the lights", "stop")]
    assert labels.shape == (2, max(tokens))
    assert (labels[1, tokens[1] :] == -100).all()
    assert (labels >= 2).sum(dim=-1).tolist() == tokens
    assert processor.batch_decode(labels, group_tokens=False) == ["turn on the lights", "stop"]


def test_call_features_are_the_extractors(processor, waveform):
    batch = processor(audio=[waveform, waveform[:20_000]], text=["stop", "stop"], sampling_rate=16_000)
    expected = processor.feature_extractor([waveform, waveform[:20_000]], sampling_rate=16_000, return_tensors="pt")
    assert torch.equal(batch["input_features"], expected["input_features"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])


def test_call_audio_alone_has_no_labels(processor, waveform):
    batch = processor(waveform, sampling_rate=16_000)
    assert batch["input_features"].shape == (1, 298, 80)
    assert "labels" not in batch


def test_call_one_clip_with_one_transcript(processor, waveform):
    batch = processor(audio=waveform, text="stop", sampling_rate=16_000)
    assert batch["labels"].shape[0] == 1
    assert processor.decode(batch["labels"][0], group_tokens=False) == "stop"


def test_call_text_alone_gives_ids_padded_with_the_blank(processor):
    batch = processor(text=["turn on the lights", "stop"])
    expected = processor.tokenizer(["turn on the lights", "stop"], padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert (batch["input_ids"][1] == 0).any()
    assert "input_features" not in batch


@pytest.mark.parametrize(
    ("return_tensors", "kind"), [("pt", torch.Tensor), ("np", np.ndarray), (None, (list, np.ndarray))]
)
def test_call_returns_the_tensors_that_were_asked_for(processor, waveform, return_tensors, kind):
    batch = processor(
        audio=[waveform, waveform],
        text=["stop", "what time is it"],
        sampling_rate=16_000,
        return_tensors=return_tensors,
    )
    assert all(isinstance(value, kind) for value in batch.values())
    assert batch["labels"][0][-1] == -100


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_call_empty_transcripts_give_integer_labels(processor, waveform, return_tensors):
    labels = processor(
        audio=[waveform, waveform], text=["", " "], sampling_rate=16_000, return_tensors=return_tensors
    )["labels"]
    assert "int64" in str(labels.dtype)
    assert labels.tolist() == [[-100], [-100]]


def test_call_out_of_vocabulary_transcript_gives_unknown(processor, waveform):
    labels = processor(audio=waveform, text="зтоп", sampling_rate=16_000)["labels"]
    assert processor.tokenizer.unk_token_id in labels
    assert (labels != processor.tokenizer.pad_token_id).all()


@pytest.mark.parametrize(
    ("clips", "texts", "message"),
    [
        (2, ["stop"], "2 clips were given with 1 transcripts; each clip needs its own"),
        (1, ["stop", "stop"], "1 clips were given with 2 transcripts"),
        (2, "stop", "2 clips were given with 1 transcripts"),
    ],
)
def test_call_counts_differ_raises(processor, waveform, clips, texts, message):
    with pytest.raises(ValueError, match=message):
        processor(audio=[waveform] * clips, text=texts, sampling_rate=16_000)


def test_call_nothing_raises(processor):
    with pytest.raises(ValueError, match="neither audio nor text was given; pass audio=, text= or both"):
        processor()


def test_call_wrong_rate_raises(processor, waveform):
    with pytest.raises(ValueError, match=r"8000 Hz.*16000 Hz; resample"):
        processor(audio=waveform, sampling_rate=8000)


def test_call_bad_audio_raises(processor):
    with pytest.raises(ValueError, match="clip 1 .*empty"):
        processor(audio=[np.ones(16_000, np.float32), np.ones(0, np.float32)], sampling_rate=16_000)


def test_call_extractors_options_reach_it(processor, waveform):
    batch = processor(audio=waveform, sampling_rate=16_000, padding="max_length", max_length=400)
    assert batch["input_features"].shape == (1, 400, 80)


def test_decode_is_the_tokenizers(processor):
    ids = torch.tensor(processor.tokenizer("what time is it")["input_ids"])
    steps = torch.stack([ids, ids, torch.zeros_like(ids)], dim=1).flatten()
    assert processor.decode(steps) == "what time is it"
    assert processor.batch_decode(steps[None]) == ["what time is it"]
    assert [word["word"] for word in processor.decode(steps, output_word_offsets=True).word_offsets] == [
        "what",
        "time",
        "is",
        "it",
    ]


class BestUnits:
    """A decoder in name only: hypotheses are the best units of the steps, and then everything."""

    def decode(self, log_probs, lengths=None):
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]))
        assert log_probs.dtype == torch.float32
        lengths = [log_probs.shape[1]] * len(log_probs) if lengths is None else lengths
        best = [row[:length].argmax(-1).tolist() for row, length in zip(log_probs, lengths, strict=True)]
        return [[SimpleNamespace(text=str(ids)), SimpleNamespace(text="second best")] for ids in best]


@pytest.mark.parametrize("kind", [torch.tensor, np.array, torch.HalfTensor], ids=["torch", "numpy", "half"])
def test_batch_decode_with_decoder_gives_its_best_texts(processor, kind):
    logits = kind([[[5.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[0.0, 7.0, 0.0], [9.0, 0.0, 0.0]]])  # (2, 2 steps, 3)
    assert processor.batch_decode(logits, decoder=BestUnits()) == ["[0, 2]", "[1, 0]"]
    assert processor.batch_decode(logits, decoder=BestUnits(), lengths=[1, 2]) == ["[0]", "[1, 0]"]


def test_batch_decode_with_beam_search_matches_the_decoder(processor):
    decoder = CTCDecoder.from_processor(processor, beam_width=4)
    logits = torch.randn(2, 12, len(processor.tokenizer), generator=torch.Generator().manual_seed(0))
    expected = decoder.decode(logits.log_softmax(-1), [12, 7])
    texts = processor.batch_decode(logits, decoder=decoder, lengths=torch.tensor([12, 7]))
    assert texts == [hypotheses[0].text for hypotheses in expected]


def test_save_pretrained_round_trips(tmp_path, processor, waveform):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is SpeechBertProcessor
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert loaded.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
    given = {"audio": [waveform, waveform[:20_000]], "text": TEXTS[:2], "sampling_rate": 16_000}
    expected, batch = processor(**given), loaded(**given)
    assert expected.keys() == batch.keys()
    assert all(torch.equal(expected[name], batch[name]) for name in expected)


def test_pad_is_what_the_collators_of_the_ctc_examples_call(checkpoint):
    processor = SpeechBertProcessor.from_text_pretrained(checkpoint, texts=TEXTS)
    random = np.random.default_rng(0)
    clips = [random.standard_normal(samples).astype(np.float32) for samples in (8_000, 5_000)]
    together = processor(audio=clips, text=TEXTS[:2], sampling_rate=16_000)
    inputs = [{"input_features": processor(audio=clip, sampling_rate=16_000)["input_features"][0]} for clip in clips]
    labels = [{"input_ids": processor.tokenizer(text)["input_ids"]} for text in TEXTS[:2]]
    padded = processor.pad(inputs, padding=True, return_tensors="pt")
    torch.testing.assert_close(padded["input_features"], together["input_features"])
    assert torch.equal(padded["attention_mask"], together["attention_mask"])
    ids = processor.pad(labels=labels, padding=True, return_tensors="pt")
    assert torch.equal(ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100), together["labels"])
    both = processor.pad(inputs, labels, padding=True, return_tensors="pt")
    assert torch.equal(both["labels"], ids["input_ids"])
