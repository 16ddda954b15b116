"""Text of a recording that comes in pieces, against the model's direct path on the whole recording."""

import csv
import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, GPT2Config, LlamaConfig

from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)
from hf_speechft.data.audio import load_audio
from hf_speechft.decoding import StreamingRecognizer, TimedWord, streaming
from hf_speechft.model.frontend_speechbert import FRONTENDS

RATE_HZ = 16_000
UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz", "▁the", "ing"]
GPT2 = GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=128, vocab_size=8, bos_token_id=0, eos_token_id=0)
BERT = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
LLAMA = LlamaConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=8, pad_token_id=0
)


@pytest.fixture(scope="module")
def make_processor(tmp_path_factory):
    vocab_file = tmp_path_factory.mktemp("vocab") / "vocab.json"
    vocab_file.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}))

    def make(normalize="running", **options):
        extractor = SpeechBertFeatureExtractor(normalize=normalize, **options)
        return SpeechBertProcessor(extractor, SpeechBertTokenizer(str(vocab_file)))

    return make


def make_model(backbone=LLAMA, **options):
    """A random model whose best units vary from step to step."""
    torch.manual_seed(0)
    model = SpeechBertForCTC(SpeechBertConfig(backbone_config=backbone, vocab_size=len(UNITS), **options)).eval()
    with torch.no_grad():
        for weights in model.speechbert.parameters():
            if weights.ndim > 1:
                weights.normal_(std=0.3)
        model.head.weight.normal_()
        model.head.bias[0] = 4.0
    return model


def whole(model, processor, waveform):
    """Text and words of the whole recording, without a stream."""
    inputs = processor(audio=waveform, sampling_rate=RATE_HZ)
    decoded = processor.tokenizer.decode(
        model.generate(**inputs)[0], skip_special_tokens=True, output_word_offsets=True
    )
    step_s, duration_s = model.config.inputs_to_logits_ratio / RATE_HZ, len(waveform) / RATE_HZ
    words = [
        TimedWord(word["word"], word["start_offset"] * step_s, min(word["end_offset"] * step_s, duration_s))
        for word in decoded.word_offsets
    ]
    return " ".join(decoded.text.split()), words


def stream(model, processor, waveform, sizes):
    """The recogniser after the recording, and what each call gave; `sizes` are used in turn."""
    recognizer, start, given = StreamingRecognizer(model, processor, sampling_rate=RATE_HZ), 0, []
    while start < len(waveform):
        size = sizes[len(given) % len(sizes)]
        given.append(recognizer.accept(waveform[start : start + size]))
        start += size
        assert recognizer.text == "".join(given)
    given.append(recognizer.finish())
    return recognizer, given


def check(model, processor, waveform, sizes):
    text, words = whole(model, processor, waveform)
    recognizer, given = stream(model, processor, waveform, sizes)
    assert "".join(given) == recognizer.text == text
    assert recognizer.words == words
    return text, given


@pytest.mark.parametrize("lookahead_ms", [0, 240])
@pytest.mark.parametrize("frontend", FRONTENDS)
def test_text_and_words_of_pieces_are_those_of_the_whole(make_processor, waveform, frontend, lookahead_ms):
    model = make_model(GPT2, frontend=frontend, lookahead_ms=lookahead_ms, adapter_layers=lookahead_ms // 240)
    for sizes in ([1_280], [1, 160, 0, 399, 7_000, 3], [100_000]):
        text, given = check(model, make_processor(), waveform, sizes)
        assert len(text) > 4
        assert sum(map(bool, given)) > 2 or sizes == [100_000]


@pytest.mark.parametrize(
    ("options", "features"),
    [
        ({"backbone": GPT2, "subsampling": 8}, {"feature_type": "log_mel"}),
        ({"backbone": GPT2, "subsampling": 4, "frontend": "stack"}, {"normalize": "none"}),
        ({"subsampling": 2}, {"feature_type": "mfcc", "feature_size": 20}),
    ],
    ids=["log_mel", "none", "mfcc"],
)
def test_text_is_that_of_the_whole_with_other_features(make_processor, waveform, options, features):
    model = make_model(**options, num_mel_bins=features.get("feature_size", 80))
    check(model, make_processor(**features), waveform, [1_280])


def test_recording_longer_than_a_block_in_one_piece(make_processor, waveform):
    check(make_model(), make_processor(), np.tile(waveform, 5)[: 15 * RATE_HZ - 77], [1_000_000])


@pytest.mark.speech
def test_text_of_speech_is_that_of_the_whole(make_processor, speech_folder):
    folder = speech_folder / "an4" / "test"
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        names = [row["file_name"] for row in csv.DictReader(file)][:3]
    model = make_model(GPT2, lookahead_ms=80)
    for name in names:
        text, _ = check(model, make_processor(), load_audio(folder / name, RATE_HZ), [1_280])
        assert text


def test_units_without_word_marks_come_one_by_one(tmp_path, waveform):
    units = ["<pad>", "<unk>", *(chr(ord("一") + index) for index in range(len(UNITS) - 3)), "\u0e34"]
    (tmp_path / "vocab.json").write_text(json.dumps({unit: index for index, unit in enumerate(units)}))
    tokenizer = SpeechBertTokenizer(str(tmp_path / "vocab.json"))
    processor = SpeechBertProcessor(SpeechBertFeatureExtractor(normalize="running"), tokenizer)
    text, _ = check(make_model(), processor, waveform, [1_280])
    assert len(text) > 4
    assert " " not in text
    recognizer = StreamingRecognizer(make_model(), processor, sampling_rate=RATE_HZ)
    recognizer.accept(waveform)
    assert len(recognizer.words) > 2  # each is complete when the next one begins


def test_text_comes_as_soon_as_it_can(make_processor, waveform):
    for options in ({}, {"frontend": "stack"}, {"frontend": "rnn", "lookahead_ms": 80}):
        model, processor = make_model(**options), make_processor()
        recognizer, _ = stream(model, processor, waveform, [1_280])
        first_s = recognizer.words[0].start_s
        again = StreamingRecognizer(model, processor, sampling_rate=RATE_HZ)
        needed = round((first_s + again.latency_s) * RATE_HZ)
        assert again.accept(waveform[: needed - 1]) == ""
        assert again.accept(waveform[needed - 1 : needed]) != ""


def test_latency_is_what_the_front_end_and_look_ahead_wait_for(make_processor):
    for options, latency_s in [
        ({}, 0.025),
        ({"frontend": "stack"}, 0.055),
        ({"frontend": "rnn", "subsampling": 8, "lookahead_ms": 160}, 0.095 + 0.16),
    ]:
        recognizer = StreamingRecognizer(make_model(**options), make_processor(), sampling_rate=RATE_HZ)
        assert recognizer.latency_s == pytest.approx(latency_s)


def test_silence_after_a_word_keeps_the_word_open_and_nothing_grows(make_processor):
    recognizer = StreamingRecognizer(make_model(), make_processor(), sampling_rate=RATE_HZ)
    recognizer.model.stream = spoken = _Spoken()
    blank, a, b, space = 0, 3, 4, 2
    spoken.units = [[a, blank], [blank] * 3, [a, b], [space, space], [blank], [space, b], []]
    given = [recognizer.accept(np.zeros(640)) for _ in range(6)] + [recognizer.finish()]
    assert given == ["a", "", "ab", "", "", " b", ""]
    assert [word.text for word in recognizer.words] == ["aab", "b"]


class _Spoken:
    """In the model's place: says of each call which units are best."""

    def __call__(self, features, past, is_last):
        return torch.nn.functional.one_hot(torch.tensor(self.units.pop(0), dtype=torch.long)[None], len(UNITS))


def test_recording_of_nothing_or_less_than_a_frame_has_no_text(make_processor, waveform):
    for samples in (0, 1, 399):
        for options in ({}, {"lookahead_ms": 80, "frontend": "stack", "adapter_layers": 1}):
            recognizer, given = stream(make_model(**options), make_processor(), waveform[:samples], [100])
            assert ("".join(given), recognizer.text, recognizer.words) == ("", "", [])


def test_calls_after_the_end_raise(make_processor, waveform):
    recognizer = StreamingRecognizer(make_model(), make_processor(), sampling_rate=RATE_HZ)
    recognizer.accept(waveform)
    recognizer.finish()
    for call in (recognizer.finish, lambda: recognizer.accept(waveform)):
        with pytest.raises(ValueError, match="this recording is finished; make a new StreamingRecognizer"):
            call()


def test_recording_longer_than_the_positions_raises(make_processor, waveform):
    recognizer = StreamingRecognizer(make_model(GPT2), make_processor(), sampling_rate=RATE_HZ)
    recognizer.accept(waveform)
    with pytest.raises(ValueError, match=r"has positions for 128 \(5\.1 s\)"):
        recognizer.accept(waveform)


def test_restart_comes_before_positions_run_out(make_processor, waveform):
    """Of 5.1 s: after the half of them in a pause, after three quarters in any blank."""
    model = make_model(GPT2)
    with torch.no_grad():
        model.head.bias[0] = 6.0
    recognizer = StreamingRecognizer(model, make_processor(), sampling_rate=RATE_HZ, restart_s=60.0)
    recording = np.tile(waveform, 4)
    for start in range(0, len(recording), 1_280):
        recognizer.accept(recording[start : start + 1_280])
    recognizer.finish()
    assert recognizer.words[-1].end_s > 10


def restarted(model, processor, waveform, restart_s):
    """Text, and where the model forgets, with a pass of the rest from each pause on."""
    step_samples = model.config.inputs_to_logits_ratio
    pause_steps, restart_steps = (-(-int(s * RATE_HZ) // step_samples) for s in (streaming.PAUSE_S, restart_s))
    texts, starts, start = [], [], 0
    while start is not None:
        starts.append(start)
        inputs = processor(audio=waveform[start : start + 5 * RATE_HZ], sampling_rate=RATE_HZ)
        ids = model.generate(**inputs)[0].tolist()
        ends = range(max(restart_steps, pause_steps), len(ids) - 1)
        needed = [1 if end >= 0.75 * model.speechbert.max_steps else pause_steps for end in ends]
        pauses = (end for end, blanks in zip(ends, needed, strict=True) if not any(ids[end - blanks : end]))
        end = next(pauses, None)
        texts.append(processor.tokenizer.decode(ids[:end], skip_special_tokens=True))
        start = None if end is None else start + end * step_samples
    return " ".join(filter(None, texts)), starts


@pytest.mark.parametrize(("frontend", "blank_bias"), [("conv1d", 6.0), ("stack", 12.0)])
@pytest.mark.parametrize("lookahead_ms", [0, 80])
def test_restart_forgets_in_pauses_wherever_pieces_end(
    make_processor, waveform, lookahead_ms, frontend, blank_bias, monkeypatch
):
    monkeypatch.setattr(streaming, "PAUSE_S", 0.16)  # a model with random weights makes no long pause
    recording = np.tile(waveform, 3)
    model, processor = make_model(GPT2, lookahead_ms=lookahead_ms, frontend=frontend), make_processor()
    with torch.no_grad():
        model.head.bias[0] = blank_bias
    text, starts = restarted(model, processor, recording, 1.0)
    assert len(starts) > 3
    assert len(text) > 8
    for sizes in ([1_280], [1, 160, 0, 399, 7_000, 3], [10_000_000]):
        recognizer = StreamingRecognizer(model, processor, sampling_rate=RATE_HZ, restart_s=1.0)
        start, given = 0, []
        while start < len(recording):
            size = sizes[len(given) % len(sizes)]
            given.append(recognizer.accept(recording[start : start + size]))
            start += size
        given.append(recognizer.finish())
        assert "".join(given) == recognizer.text == text
        times = [time for word in recognizer.words for time in (word.start_s, word.end_s)]
        assert times == sorted(times)
        assert 7 < times[-1] <= len(recording) / RATE_HZ


@pytest.mark.parametrize(
    ("model", "normalize", "rate_hz", "message"),
    [
        (lambda: make_model(), "running", 8_000, "the stream has 8000 Hz and the model needs 16000 Hz; resample it"),
        (lambda: make_model(), "utterance", RATE_HZ, "train one with --normalize running"),
        (lambda: make_model(attention="bidirectional"), "running", RATE_HZ, "attention is bidirectional: each step"),
        (lambda: make_model(BERT), "running", RATE_HZ, "Train one with --attention causal --normalize run"),
        (lambda: make_model().train(), "running", RATE_HZ, "the model is in training mode.*call model.eval"),
    ],
    ids=["rate", "normalize", "bidirectional", "bert", "training"],
)
def test_recogniser_that_cannot_stream_raises(make_processor, model, normalize, rate_hz, message):
    with pytest.raises(ValueError, match=message):
        StreamingRecognizer(model(), make_processor(normalize), sampling_rate=rate_hz)
