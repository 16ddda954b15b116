"""Recordings of any length: chunks, seams and times against the model's direct path and transformers' pipeline."""

import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, GPT2Config, pipeline

from hf_speechft import (
    SpeechBertConfig,
    SpeechBertFeatureExtractor,
    SpeechBertForCTC,
    SpeechBertProcessor,
    SpeechBertTokenizer,
)
from hf_speechft.data.audio import load_audio, stream_audio
from hf_speechft.decoding import CTCDecoder
from hf_speechft.decoding.longform import (
    Chunk,
    ChunkPlan,
    TimedWord,
    cut_chunks,
    join_chunks,
    plan_chunks,
    transcribe,
    transcribe_batch,
)

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000
UNITS = ["<pad>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz", "▁the", "ing"]


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.json"
    path.write_text(json.dumps({unit: index for index, unit in enumerate(UNITS)}))
    return str(path)


@pytest.fixture(scope="module")
def processor(vocab_file):
    return SpeechBertProcessor(SpeechBertFeatureExtractor(), SpeechBertTokenizer(vocab_file))


def make_model(subsampling=4, backbone=BertConfig, **options):
    """A random model whose best units vary from step to step."""
    torch.manual_seed(0)
    if backbone is BertConfig:
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    else:
        sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2}
    config = SpeechBertConfig(
        backbone_config=backbone(**sizes), vocab_size=len(UNITS), subsampling=subsampling, **options
    )
    model = SpeechBertForCTC(config).eval()
    with torch.no_grad():
        model.head.weight.normal_()
        model.head.bias[0] = 1.0
        model.head.bias[1] = -1000.0  # never <unk>
    return model


def make_local_model():
    """The same, where attention adds nothing, and positions neither."""
    model = make_model()
    with torch.no_grad():
        model.speechbert.backbone.encoder.layer[0].attention.output.dense.weight.zero_()
        model.speechbert.backbone.embeddings.position_embeddings.weight.zero_()
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_sound(duration_s, seed=0):
    """Tones whose pitch changes every 80 ms, with noise: many different units."""
    rng = np.random.default_rng(seed)
    samples = round(duration_s * RATE_HZ)
    pitch_hz = np.repeat(rng.uniform(150, 4000, samples // 1280 + 1), 1280)[:samples]
    sound = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ) + 0.02 * rng.standard_normal(samples)
    return sound.astype(np.float32)


def cut(waveform, block_s):
    size = round(block_s * RATE_HZ)
    return [waveform[start : start + size] for start in range(0, len(waveform), size)]


def direct_ids(model, processor, waveform):
    inputs = processor(audio=waveform, sampling_rate=RATE_HZ)
    return model.generate(inputs["input_features"], inputs["attention_mask"])[0].tolist()


@pytest.fixture
def decoded_ids(monkeypatch):
    """The ids that the tokenizer is asked to decode, in order."""
    ids = []
    decode = SpeechBertTokenizer.decode

    def record_and_decode(tokenizer, piece, *args, **options):
        ids.extend(piece)
        return decode(tokenizer, piece, *args, **options)

    monkeypatch.setattr(SpeechBertTokenizer, "decode", record_and_decode)
    return ids


@pytest.mark.parametrize("subsampling", [2, 4, 8])
@pytest.mark.parametrize("duration_s", [0.025, 0.5, 3.333, 10.0])
def test_transcribe_short_clip_matches_direct_path(processor, decoded_ids, subsampling, duration_s):
    model = make_model(subsampling)
    waveform = make_sound(duration_s)
    transcript = transcribe(cut(waveform, 1.0), model, processor)
    ids = direct_ids(model, processor, waveform)
    assert decoded_ids == ids
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True, output_word_offsets=True)
    step_s = subsampling * 0.01
    assert transcript.text == expected.text
    assert [word.text for word in transcript.words] == [offset["word"] for offset in expected.word_offsets]
    starts_s = [offset["start_offset"] * step_s for offset in expected.word_offsets]
    assert [word.start_s for word in transcript.words] == pytest.approx(starts_s)
    assert transcript.duration_s == len(waveform) / RATE_HZ


@pytest.mark.parametrize(
    "options",
    [{}, {"frontend": "rnn"}, {"backbone": GPT2Config}, {"subsampling": 8}, {"subsampling": 2}],
    ids=["conv1d", "rnn", "gpt2", "8x", "2x"],
)
def test_transcribe_long_recording_gives_one_unit_a_step(processor, decoded_ids, options):
    model = make_model(**options)
    waveform = make_sound(47.77)
    transcript = transcribe(cut(waveform, 7.0), model, processor, chunk_s=4.0, batch_size=3)
    steps = -(-processor.feature_extractor.frame_count(len(waveform)) // model.config.subsampling)
    assert len(decoded_ids) == steps
    assert all(word.start_s < word.end_s for word in transcript.words)
    ends_s = [0.0, *(word.end_s for word in transcript.words)]
    assert all(word.start_s >= end_s for word, end_s in zip(transcript.words, ends_s, strict=False))
    assert ends_s[-1] <= transcript.duration_s == pytest.approx(47.77)


def test_transcribe_is_invariant_to_blocks_and_batch_size(model, processor):
    waveform = make_sound(33.0)
    whole = transcribe([waveform], model, processor, chunk_s=5.0, batch_size=1)
    assert transcribe(cut(waveform, 0.31), model, processor, chunk_s=5.0, batch_size=1) == whole
    assert transcribe(cut(waveform, 8.0), model, processor, chunk_s=5.0, batch_size=4) == whole


def test_transcribe_local_model_is_invariant_to_chunks(processor, decoded_ids):
    """Where neither features nor attention reach beyond a chunk, chunks change nothing at all."""
    model = make_local_model()
    plain = SpeechBertProcessor(SpeechBertFeatureExtractor(normalize="none"), processor.tokenizer)
    waveform = make_sound(20.0)
    ids = direct_ids(model, plain, waveform)
    transcript = transcribe([waveform], model, plain, chunk_s=3.0)
    assert decoded_ids == ids
    assert len({unit for unit, _ in groupby(ids)}) > 5
    assert transcript == transcribe([waveform], model, plain, chunk_s=20.0)


def test_transcribe_long_recording_matches_pipeline(model, processor):
    """The pipeline cuts the same chunks where the last one is full; units differ near seams at most."""
    chunk_s, chunks = 6.0, 4
    plan = plan_chunks(model, processor, chunk_s)
    waveform = make_sound((plan.chunk_samples + (chunks - 1) * plan.advance_samples) / RATE_HZ)
    recogniser = pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    expected = recogniser({"raw": waveform, "sampling_rate": RATE_HZ}, chunk_length_s=chunk_s)["text"]
    text = transcribe([waveform], model, processor, chunk_s=chunk_s).text
    assert len(text) > 100
    assert edit_distance(text, " ".join(expected.split())) <= 0.02 * len(expected)


def edit_distance(first, second):
    row = list(range(len(second) + 1))
    for i, char in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (char != other))
    return row[-1]


def test_transcribe_native_units_keeps_words_whole_across_pieces(processor):
    """Words are decoded piece by piece, yet come out as from all ids at once."""
    from hf_speechft.decoding.longform import _words

    rng = np.random.default_rng(0)
    ids = rng.choice(len(UNITS), 400).tolist()
    pieces = [ids[start : start + 7] for start in range(0, len(ids), 7)]
    words = list(_words(pieces, processor.tokenizer, 0.04))
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True, output_word_offsets=True)
    assert " ".join(word.text for word in words) == expected.text
    for word, offset in zip(words, expected.word_offsets, strict=True):
        assert word.start_s == pytest.approx(offset["start_offset"] * 0.04)
        assert word.end_s == pytest.approx(offset["end_offset"] * 0.04)


def test_transcribe_units_without_word_marks_gives_each_character_as_a_word(model, tmp_path):
    """Greedily and by a decoder that adds nothing; a second is more than the model needs to write some."""
    units = ["<pad>", "<unk>", *(chr(ord("一") + index) for index in range(len(UNITS) - 2))]
    (tmp_path / "vocab.json").write_text(json.dumps({unit: index for index, unit in enumerate(units)}))
    tokenizer = SpeechBertTokenizer(str(tmp_path / "vocab.json"))
    unspaced = SpeechBertProcessor(SpeechBertFeatureExtractor(), tokenizer)
    greedy = transcribe([make_sound(25.0)], model, unspaced)
    assert len(greedy.words) > 100
    assert tokenizer.word_start_ids == {*range(2, len(units))}  # words are given out before the end
    assert all(len(word.text) == 1 for word in greedy.words)
    assert greedy.text == "".join(word.text for word in greedy.words)
    waveform = make_sound(2.0)
    (batch,) = transcribe_batch([waveform], model, unspaced)
    assert batch.text == tokenizer.decode(direct_ids(model, unspaced, waveform)) != ""
    searched = transcribe([waveform], model, unspaced, decoder=CTCDecoder.from_processor(unspaced, beam_width=1))
    assert searched.text == "".join(word.text for word in searched.words) != ""


def test_transcribe_recording_without_speech_gives_empty_text(processor):
    model = make_model()
    with torch.no_grad():
        model.head.bias[0] = 1000.0  # blank always
    transcript = transcribe([np.zeros(45 * RATE_HZ, np.float32)], model, processor)
    assert (transcript.text, transcript.words, transcript.duration_s) == ("", [], 45.0)


def test_transcribe_too_short_recording_raises(model, processor):
    with pytest.raises(ValueError, match=r"lasts 6.2 ms; one frame of features needs 25 ms"):
        transcribe([np.zeros(100, np.float32)], model, processor)
    with pytest.raises(ValueError, match=r"lasts 0.0 ms"):
        transcribe([], model, processor)


def test_transcribe_model_in_training_raises(processor):
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        transcribe([make_sound(1.0)], make_model().train(), processor)


def test_transcribe_batch_size_zero_raises(model, processor):
    with pytest.raises(ValueError, match="batch_size is 0"):
        transcribe([make_sound(1.0)], model, processor, batch_size=0)


def direct_log_probs(model, processor, waveform):
    inputs = processor(audio=waveform, sampling_rate=RATE_HZ)
    with torch.inference_mode():
        return model(inputs["input_features"], inputs["attention_mask"]).logits.log_softmax(dim=-1)


def timed(words):
    """Words without confidences, which depend on how much is searched at once."""
    return [(word.text, pytest.approx(word.start_s), pytest.approx(word.end_s)) for word in words]


@pytest.mark.parametrize("options", [{}, {"beam_width": 3, "hotwords": {"the zoo": 9.0}, "word_bonus": 1.5}])
def test_transcribe_decoder_short_clip_matches_direct_decoding(model, processor, options):
    decoder = CTCDecoder.from_processor(processor, **options)
    waveform = make_sound(5.0)
    transcript = transcribe(cut(waveform, 1.0), model, processor, decoder=decoder)
    (expected,) = decoder.decode(direct_log_probs(model, processor, waveform))[0]
    assert transcript.text == expected.text
    assert transcript.words == [
        TimedWord(
            word.text,
            pytest.approx(word.start_step * 0.04),
            pytest.approx(min(word.end_step * 0.04, 5.0)),
            pytest.approx(word.confidence),
        )
        for word in expected.words
    ]
    assert len(transcript.words) > 2
    assert (transcript.duration_s, transcript.rejection_score) == (5.0, None)


def test_transcribe_decoder_local_model_is_invariant_to_chunks(processor):
    """Where neither features nor attention reach beyond a chunk, joined log-probabilities are those of the whole."""
    model = make_local_model()
    plain = SpeechBertProcessor(SpeechBertFeatureExtractor(normalize="none"), processor.tokenizer)
    decoder = CTCDecoder.from_processor(processor, beam_width=4)
    waveform = make_sound(20.0)
    (expected,) = decoder.decode(direct_log_probs(model, plain, waveform))[0]
    transcript = transcribe([waveform], model, plain, decoder=decoder, chunk_s=3.0)
    assert len(transcript.text) > 50
    assert transcript.text == expected.text
    assert [word.start_s for word in transcript.words] == pytest.approx([w.start_step * 0.04 for w in expected.words])


def test_transcribe_decoder_is_invariant_to_blocks_and_batch_size(model, processor):
    decoder = CTCDecoder.from_processor(processor, beam_width=4)
    waveform = make_sound(47.0)  # two passages
    options = {"decoder": decoder, "chunk_s": 5.0}
    whole = transcribe([waveform], model, processor, batch_size=1, **options)
    for blocks, batch_size in ((cut(waveform, 0.31), 1), (cut(waveform, 8.0), 4)):
        other = transcribe(blocks, model, processor, batch_size=batch_size, **options)
        assert other.text == whole.text
        assert [(word.text, word.start_s, word.end_s) for word in other.words] == timed(whole.words)
    assert whole.words[-1].end_s > 45.0
    assert all(word.end_s <= after.start_s for word, after in zip(whole.words, whole.words[1:], strict=False))


def test_transcribe_phrases_give_a_rejection_score(model, processor):
    decoder = CTCDecoder.from_processor(processor, phrases=["turn on the light", "stop"])
    waveform = make_sound(3.0)
    transcript = transcribe([waveform], model, processor, decoder=decoder)
    (expected,) = decoder.decode(direct_log_probs(model, processor, waveform))[0]
    assert transcript.text == expected.text
    assert transcript.rejection_score == pytest.approx(expected.rejection_score, rel=1e-4)
    assert transcript.rejection_score > 10


def test_transcribe_phrases_long_recording_raises_before_its_end(model, processor):
    decoder = CTCDecoder.from_processor(processor, phrases=["stop"])
    given = []

    def blocks():
        for second in range(600):
            given.append(second)
            yield make_sound(1.0, second)

    with pytest.raises(ValueError, match=r"longer than 30 s.*cut it into a recording for each utterance"):
        transcribe(blocks(), model, processor, decoder=decoder, chunk_s=5.0, batch_size=2)
    assert 30 < len(given) < 60


def test_plan_chunks_default_follows_position_limit(processor):
    assert plan_chunks(make_model(4), processor) == ChunkPlan(500, 83, 640)  # 20 s of 20.48
    assert plan_chunks(make_model(2), processor).chunk_steps == 512  # 10.24 s
    assert plan_chunks(make_model(8), processor).chunk_steps == 250  # 20 s of 40.96


@pytest.mark.parametrize("feature_type", ["fbank", "log_mel"])
@pytest.mark.parametrize("subsampling", [2, 4, 8])
def test_plan_chunks_longest_chunk_fits_the_model(processor, feature_type, subsampling):
    model = make_model(subsampling)
    other = SpeechBertProcessor(SpeechBertFeatureExtractor(feature_type=feature_type), processor.tokenizer)
    step_s = subsampling * 0.01
    longest = plan_chunks(model, other, 512 * step_s - step_s).chunk_steps
    waveform = make_sound(longest * step_s)
    assert longest - 1 <= len(direct_ids(model, other, waveform)) <= 512
    transcribe([make_sound(515 * step_s)], model, other, chunk_s=longest * step_s)


def test_plan_chunks_too_long_or_too_short_raises(model, processor):
    with pytest.raises(ValueError, match=r"chunk_s is 30 s \(750 steps\).*positions for 20\.5 s \(512 steps\)"):
        plan_chunks(model, processor, 30.0)
    with pytest.raises(ValueError, match=r"a chunk of 2 steps \(0\.08 s\) is too short .* needs 6 steps"):
        plan_chunks(model, processor, 0.08)


@pytest.mark.parametrize("total", [1, 59, 60, 61, 100, 101, 119, 120, 121, 600, 607])
@pytest.mark.parametrize("block", [1, 7, 60, 1000])
def test_cut_chunks_covers_every_sample(total, block):
    plan = ChunkPlan(chunk_steps=12, margin_steps=2, step_samples=5)
    samples = np.arange(total, dtype=np.float32)
    chunks = list(cut_chunks([samples[start : start + block] for start in range(0, total, block)], plan))
    covered = 0
    for start_step, chunk in chunks:
        start = start_step * 5
        np.testing.assert_array_equal(chunk, samples[start : start + len(chunk)])
        assert start <= max(0, covered - 2 * 2 * 5)  # neighbours share both margins
        covered = start + len(chunk)
    assert covered == total
    assert all(len(chunk) == 60 for _, chunk in chunks[:-1])
    assert len(chunks) == 1 or 55 < len(chunks[-1][1]) <= 60


def test_join_chunks_takes_each_side_up_to_the_middle():
    left, right = [1] * 8, [2] * 8
    pieces = list(join_chunks([Chunk(0, left, left), Chunk(4, right, right)]))  # they share steps 4 to 7
    assert sum(pieces, []) == [1] * 6 + [2] * 6


def test_join_chunks_unit_heard_a_step_apart_is_not_doubled():
    """Cut in the middle, at step 8, the 5 would be heard at step 7 on the left and again at step 9 on the right."""
    left = [1, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0]  # steps 0 to 11
    right = [0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 3, 0]  # steps 4 to 15
    joined = sum(join_chunks([Chunk(0, left, left), Chunk(4, right, right)]), [])
    assert len(joined) == 16
    assert [unit for unit, _ in groupby(joined) if unit] == [1, 2, 5, 3]


def test_join_chunks_unit_across_the_seam_stays_one():
    left = [0, 0, 4, 4, 4, 4]
    right = [4, 4, 4, 4, 0, 0]
    joined = sum(join_chunks([Chunk(0, left, left), Chunk(2, right, right)]), [])
    assert [unit for unit, _ in groupby(joined) if unit] == [4]


MEMORY_SCRIPT = """
import resource, sys
import numpy as np
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_longform import make_model, RATE_HZ, UNITS
from hf_speechft import SpeechBertFeatureExtractor, SpeechBertProcessor, SpeechBertTokenizer
from hf_speechft.decoding import CTCDecoder, transcribe

processor = SpeechBertProcessor(SpeechBertFeatureExtractor(), SpeechBertTokenizer({vocab!r}))
model = make_model()
decoder = CTCDecoder.from_processor(processor, beam_width=2) if {has_decoder} else None
block = np.random.default_rng(0).standard_normal(30 * RATE_HZ).astype(np.float32) * 0.1

def peak_mb(minutes):
    transcript = transcribe((block.copy() for _ in range(2 * minutes)), model, processor, decoder=decoder)
    assert transcript.duration_s == 60 * minutes, transcript.duration_s
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

peak_mb(2)
print(peak_mb(2), peak_mb({minutes}))
"""


@pytest.mark.parametrize(
    ("minutes", "has_decoder"), [(10, False), (10, True), pytest.param(120, False, marks=pytest.mark.slow)]
)
def test_transcribe_memory_does_not_grow_with_length(vocab_file, minutes, has_decoder):
    tests = str(Path(__file__).parent)
    script = MEMORY_SCRIPT.format(tests=tests, vocab=vocab_file, minutes=minutes, has_decoder=has_decoder)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    short_mb, long_mb = map(float, done.stdout.split())
    # The samples alone of 10 minutes are 37 MB and of 2 hours 440 MB.
    assert long_mb - short_mb < 20


@pytest.mark.slow
def test_transcribe_two_hour_file_keeps_time(model, processor, tmp_path):
    import soundfile

    path = tmp_path / "long.flac"
    minute = make_sound(30.0)[: 60 * 8_000]  # played at half its rate
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        for _ in range(120):
            file.write(minute)
    transcript = transcribe(stream_audio(path, RATE_HZ), model, processor, batch_size=8)
    assert transcript.duration_s == pytest.approx(7200.0, abs=0.001)
    assert transcript.words[-1].end_s == pytest.approx(7200.0, abs=10.0)


@pytest.mark.speech
def test_transcribe_real_speech_matches_direct_path(model, processor, decoded_ids, speech_folder):
    path = sorted((speech_folder / "an4" / "test").rglob("*.flac"))[0]
    transcribe(stream_audio(path, RATE_HZ, 1.0), model, processor)
    assert decoded_ids == direct_ids(model, processor, load_audio(path, RATE_HZ))


@pytest.mark.parametrize(
    "options", [None, {"beam_width": 4, "hotwords": ["the zoo"]}, {"phrases": ["the zoo", "a zoo"]}], ids=str
)
def test_transcribe_batch_gives_what_transcribe_gives_for_each_alone(model, processor, options):
    decoder = None if options is None else CTCDecoder.from_processor(processor, **options)
    waveforms = [make_sound(duration_s, seed) for seed, duration_s in enumerate((0.025, 2.03, 5.0, 0.7))]
    together = transcribe_batch(waveforms, model, processor, decoder=decoder)
    for waveform, transcript in zip(waveforms, together, strict=True):
        alone = transcribe([waveform], model, processor, decoder=decoder)
        assert (transcript.text, transcript.duration_s) == (alone.text, alone.duration_s)
        assert timed(transcript.words) == [(word.text, word.start_s, word.end_s) for word in alone.words]
        assert [word.confidence for word in transcript.words] == [
            word.confidence and pytest.approx(word.confidence, abs=1e-3) for word in alone.words
        ]
        assert transcript.rejection_score == (
            alone.rejection_score if alone.rejection_score is None else pytest.approx(alone.rejection_score, abs=1e-2)
        )
    assert len({transcript.text for transcript in together}) > (1 if options and "phrases" in options else 2)


def test_transcribe_batch_of_nothing_is_empty(model, processor):
    assert transcribe_batch([], model, processor) == []
    assert transcribe_batch([], model, processor, decoder=CTCDecoder.from_processor(processor)) == []


def test_transcribe_batch_with_one_that_is_too_short_raises(model, processor):
    with pytest.raises(ValueError, match=r"lasts 6\.2 ms; one frame of features needs 25 ms"):
        transcribe_batch([make_sound(1.0), np.zeros(100, np.float32)], model, processor)


def test_transcribe_batch_model_in_training_raises(processor):
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        transcribe_batch([make_sound(1.0)], make_model().train(), processor)
