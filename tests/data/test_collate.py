"""The collator with a stand-in processor: what it is given, what it gives back, and whom it blames."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset

from hf_speechft.data.audio import audio_duration_s
from hf_speechft.data.augment import expand_speeds
from hf_speechft.data.collate import SpeechCollator
from hf_speechft.data.unreadable import UnreadableClips


class CountingProcessor:
    """Frames of 160 samples and character codes, padded with zeros and -100, as the real processor does."""

    feature_extractor = SimpleNamespace(sampling_rate=16_000)

    def __call__(self, audio, text=None, sampling_rate=None, return_tensors=None):
        assert (sampling_rate, return_tensors) == (16_000, "pt")
        for index, waveform in enumerate(audio):
            if len(waveform) < 160:
                raise ValueError(f"clip {index} is too short: {len(waveform)} samples")
        counts = [len(waveform) // 160 for waveform in audio]
        steps = torch.arange(max(counts))
        batch = {
            "input_features": torch.zeros(len(audio), max(counts), 1),
            "attention_mask": torch.stack([steps < count for count in counts]).long(),
        }
        if text is not None:
            if any("?" in words for words in text):
                raise ValueError("'?' is not in the vocabulary")
            longest = max(map(len, text))
            codes = [[*map(ord, words), *[-100] * (longest - len(words))] for words in text]
            batch["labels"] = torch.tensor(codes)
        return batch


def double_speed(waveform, sampling_rate_hz, generator):
    assert sampling_rate_hz == 16_000
    return waveform[::2]


def random_length(waveform, sampling_rate_hz, generator):
    return waveform[: generator.integers(160, len(waveform))]


def augmented(rows):
    return [row | {"augmented": True} for row in rows]


@pytest.fixture
def rows(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(1_600, 0.1), 16_000)
    soundfile.write(tmp_path / "b.flac", np.full(1_600, 0.1), 8_000)
    return [
        {"audio": {"bytes": None, "path": str(tmp_path / "a.wav")}, "text": "ab", "utterance_id": "a"},
        {"audio": {"bytes": (tmp_path / "b.flac").read_bytes(), "path": "b.flac"}, "text": "c", "utterance_id": "b"},
    ]


def test_speech_collator_pads_through_the_processor(rows):
    batch = SpeechCollator(CountingProcessor())(rows)
    assert batch["attention_mask"].tolist() == [[1] * 10 + [0] * 10, [1] * 20]  # 8 kHz becomes twice the samples
    assert batch["labels"].tolist() == [[ord("a"), ord("b")], [ord("c"), -100]]


def test_speech_collator_rows_without_text_have_no_labels(rows):
    batch = SpeechCollator(CountingProcessor())([{"audio": row["audio"]} for row in rows])
    assert set(batch) == {"input_features", "attention_mask"}


def test_speech_collator_augments_each_waveform(rows):
    batch = SpeechCollator(CountingProcessor(), augment=double_speed)(augmented(rows))
    assert batch["attention_mask"].sum(dim=1).tolist() == [5, 10]


def test_speech_collator_augments_no_row_that_is_not_marked(rows):
    collator = SpeechCollator(CountingProcessor(), augment=double_speed)
    for unmarked in (rows, [row | {"augmented": False} for row in rows]):
        assert collator(unmarked)["attention_mask"].sum(dim=1).tolist() == [10, 20]


def lengths_by_id(rows, epoch, seed=0, **loader_options):
    collator = SpeechCollator(CountingProcessor(), augment=random_length, seed=seed)
    collator.set_epoch(epoch)
    loader = torch.utils.data.DataLoader(rows, collate_fn=collator, **loader_options)
    counts = [count for batch in loader for count in batch["attention_mask"].sum(dim=1).tolist()]
    return dict(zip([row["utterance_id"] for row in rows], counts, strict=True))


@pytest.fixture
def many_rows(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.full(160_000, 0.1), 16_000)
    audio = {"bytes": None, "path": str(tmp_path / "long.wav")}
    return augmented([{"audio": audio, "utterance_id": f"row{index}"} for index in range(8)])


def test_speech_collator_draws_by_seed_epoch_and_id_only(many_rows):
    expected = lengths_by_id(many_rows, 0, batch_size=8)
    assert len(set(expected.values())) > 4
    for options in ({"batch_size": 3}, {"batch_size": 2, "num_workers": 2}, {"batch_size": 1, "num_workers": 1}):
        assert lengths_by_id(many_rows, 0, **options) == expected
    assert lengths_by_id(many_rows[::-1], 0, batch_size=3) == expected
    assert lengths_by_id(many_rows, 1, batch_size=8) != expected
    assert lengths_by_id(many_rows, 0, seed=1, batch_size=8) != expected


def test_speech_collator_draws_by_the_epoch_that_a_row_names(many_rows):
    of_a_stream = [row | {"epoch": 1} for row in many_rows]
    assert lengths_by_id(of_a_stream, 0, batch_size=8) == lengths_by_id(many_rows, 1, batch_size=8)


@pytest.mark.parametrize(
    ("start", "stay"), [("fork", False), ("fork", True), pytest.param("spawn", True, marks=pytest.mark.slow)]
)
def test_speech_collator_workers_hear_of_a_new_epoch(many_rows, start, stay):
    collator = SpeechCollator(CountingProcessor(), augment=random_length)
    loader = torch.utils.data.DataLoader(
        many_rows,
        batch_size=2,
        num_workers=2,
        persistent_workers=stay,
        multiprocessing_context=start,
        collate_fn=collator,
    )
    for epoch in range(2):
        collator.set_epoch(epoch)
        counts = [count for batch in loader for count in batch["attention_mask"].sum(dim=1).tolist()]
        assert counts == list(lengths_by_id(many_rows, epoch, batch_size=8).values())


def test_speech_collator_in_a_clean_epoch_changes_nothing_but_the_speed_of_what_has_words(rows):
    collator = SpeechCollator(CountingProcessor(), augment=double_speed)
    rows = augmented([rows[0] | {"speed": 1.25}, rows[1], rows[1] | {"text": ""}])
    for is_clean, expected in ((True, [8, 20, 10]), (False, [4, 10, 10])):
        collator.set_epoch(0, is_clean=is_clean)
        assert collator(rows)["attention_mask"].sum(dim=1).tolist() == expected


def test_speech_collator_plays_rows_at_their_speed(rows):
    batch = SpeechCollator(CountingProcessor())([rows[0] | {"speed": 1.25}, rows[1] | {"speed": 1.0}])
    assert batch["attention_mask"].sum(dim=1).tolist() == [8, 20]


def test_speech_collator_speed_keeps_the_duration_that_the_split_says(rows):
    split = Dataset.from_dict({"utterance_id": ["a"], "duration_s": [0.1]})
    for row in expand_speeds(split, [0.9, 1.0, 1.1]):
        batch = SpeechCollator(CountingProcessor())([rows[0] | {"speed": row["speed"]}])
        assert batch["attention_mask"].sum().item() == int(row["duration_s"] * 100)


def test_speech_collator_survives_pickling_for_workers(rows):
    collator = pickle.loads(pickle.dumps(SpeechCollator(CountingProcessor(), augment=double_speed)))
    assert collator(augmented(rows))["attention_mask"].sum(dim=1).tolist() == [5, 10]


def test_speech_collator_works_in_data_loader_workers(rows):
    loader = torch.utils.data.DataLoader(
        rows, batch_size=2, num_workers=1, collate_fn=SpeechCollator(CountingProcessor())
    )
    assert next(iter(loader))["labels"].shape == (2, 2)


@pytest.mark.parametrize("name", ["b", "b.flac"])
def test_speech_collator_unreadable_clip_without_a_list_raises_naming_the_utterance(name, rows):
    rows[1]["audio"]["bytes"] = b"not sound at all"
    rows[1]["utterance_id"] = "b" if name == "b" else None
    with pytest.raises(ValueError, match=rf"^utterance {name}: b\.flac is not audio"):
        SpeechCollator(CountingProcessor())(rows)


def break_flac(path):
    """Garble the middle of a file, as a bad disk does: its header stays whole."""
    sound = np.random.default_rng(0).standard_normal(16_000) * 0.1
    soundfile.write(path, sound, 16_000, format="FLAC")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2_000] = bytes(2_000)
    path.write_bytes(content)
    assert audio_duration_s(path) == 1.0


@pytest.mark.parametrize("workers", [0, 1])
def test_speech_collator_unreadable_clips_are_noted_and_become_marked_silence(rows, tmp_path, workers):
    break_flac(tmp_path / "broken.flac")
    rows.append({"audio": {"path": str(tmp_path / "broken.flac")}, "text": "xyz", "duration_s": 1.0})
    rows.append(
        {"audio": {"path": str(tmp_path / "gone.wav")}, "text": "?", "utterance_id": "gone", "duration_s": 0.5}
    )
    collator = SpeechCollator(CountingProcessor(), unreadable=UnreadableClips(tmp_path / "list"))
    loader = torch.utils.data.DataLoader(rows, batch_size=4, num_workers=workers, collate_fn=collator)
    (batch,) = loader
    assert batch["unreadable"].tolist() == [False, False, True, True]
    assert batch["attention_mask"].sum(dim=1).tolist() == [10, 20, 100, 50]  # so long as they should be
    assert batch["labels"].tolist() == [[97, 98], [99, -100], [-100, -100], [-100, -100]]
    broken, gone = collator.unreadable.new()
    assert broken.utterance_id == broken.file == str(tmp_path / "broken.flac")
    assert "broken.flac is truncated or damaged" in broken.error
    assert (gone.utterance_id, gone.file) == ("gone", str(tmp_path / "gone.wav"))
    assert rows[2]["text"] == "xyz"


def test_speech_collator_batch_of_readable_clips_has_no_mask(rows, tmp_path):
    batch = SpeechCollator(CountingProcessor(), unreadable=UnreadableClips(tmp_path / "list"))(rows)
    assert set(batch) == {"input_features", "attention_mask", "labels"}
    assert not (tmp_path / "list").exists()


def test_speech_collator_clip_refused_by_the_processor_is_named(rows):
    rows[1]["audio"] = np.zeros(100, np.float32)
    with pytest.raises(ValueError, match="^utterance b: clip 0 is too short: 100 samples"):
        SpeechCollator(CountingProcessor())(rows)


def test_speech_collator_transcript_refused_by_the_processor_is_named(rows):
    rows[0]["text"] = "what?"
    with pytest.raises(ValueError, match=r"^utterance a: '\?' is not in the vocabulary"):
        SpeechCollator(CountingProcessor())(rows)


def test_speech_collator_failure_of_the_batch_alone_names_them_all(rows):
    class NeverTwo(CountingProcessor):
        def __call__(self, audio, **options):
            if len(audio) > 1:
                raise ValueError("two is a crowd")
            return super().__call__(audio, **options)

    with pytest.raises(ValueError, match="^batch of utterances a, b: two is a crowd"):
        SpeechCollator(NeverTwo())(rows)
