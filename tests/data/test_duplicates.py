import shutil

import pytest
from datasets import Audio, Dataset, DatasetDict

from hf_speechft.data import duplicates
from hf_speechft.data.corpora import load_corpus
from hf_speechft.data.duplicates import check_duplicates, find_duplicates
from hf_speechft.data.findings import read_utterances
from tests.data.audit_corpora import Corpus, sound, utterance


def groups(corpus):
    found = find_duplicates(corpus, read_utterances(corpus))
    return [[row.utterance_id for row in group] for group in found]


@pytest.fixture
def planted(tmp_path):
    """test1 is train0, train3 is train2, and train5 is as long as train4 and differs in its last sample."""
    corpus = Corpus(tmp_path)
    corpus.set("test1.wav", samples=corpus.rows["train0.wav"][3])
    corpus.set("train3.wav", samples=corpus.rows["train2.wav"][3])
    almost = corpus.rows["train4.wav"][3].copy()
    almost[-1] = 0.5
    corpus.set("train5.wav", samples=almost)
    return corpus.write()


def test_find_duplicates_finds_equal_files_in_and_across_splits(planted):
    assert groups(load_corpus(planted)) == [["train0.wav", "test1.wav"], ["train2.wav", "train3.wav"]]


def test_find_duplicates_compares_bytes_that_the_data_set_holds(planted, tmp_path):
    corpus = load_corpus(planted)
    splits = {}
    for name, split in corpus.items():
        clips = [{"bytes": (planted / name / key).read_bytes(), "path": None} for key in split["utterance_id"]]
        columns = {"audio": clips, "text": split["text"][:], "id": split["utterance_id"][:]}
        splits[name] = Dataset.from_dict(columns).cast_column("audio", Audio(decode=False))
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert groups(load_corpus(tmp_path / "saved")) == [["train0.wav", "test1.wav"], ["train2.wav", "train3.wav"]]


def test_find_duplicates_reads_only_files_of_equal_size_and_duration(planted, monkeypatch):
    read = []
    digest = duplicates._digest

    def spy(file, corpus, *, is_whole):
        read.append((file.utterance.utterance_id, is_whole))
        return digest(file, corpus, is_whole=is_whole)

    monkeypatch.setattr(duplicates, "_digest", spy)
    groups(load_corpus(planted))
    suspects = {name for name, _ in read}
    assert {f"train{number}.wav" for number in (0, 2, 3, 4, 5)} | {"test1.wav"} <= suspects
    sizes = [path.stat().st_size for path in planted.glob("*/*.wav")]
    assert len(suspects) == sum(sizes.count(size) > 1 for size in sizes)


def test_find_duplicates_leaves_out_what_is_gone(planted):
    corpus = load_corpus(planted)
    shutil.rmtree(planted / "test")
    assert groups(corpus) == [["train2.wav", "train3.wav"]]


def test_check_duplicates_tells_copies_from_contradictions():
    train, test = utterance("on"), utterance("off", split="test")
    copy, other = utterance("on", row=1), utterance("stop", row=2)
    across, within = check_duplicates([[train, copy, test]])
    assert (across.severity, within.severity) == ("problem", "look")
    assert [flag.utterance for flag in across.flags] == [test]
    assert across.flags[0].note == "same sound as train train0.wav, whose transcript is 'on'"
    assert [flag.utterance for flag in within.flags] == [copy]
    assert within.flags[0].note == "same sound as train train0.wav"
    across, within = check_duplicates([[train, other]])
    assert (across.severity, within.severity) == ("fine", "problem")
    assert "1 clip with the same sound as another of the split, 1 of them with another transcript" in within.message


def test_check_duplicates_of_nothing_is_fine():
    assert [finding.severity for finding in check_duplicates([])] == ["fine", "fine"]


def test_find_duplicates_passes_over_quiet_middles(tmp_path):
    """Files whose middles agree are told apart by the whole."""
    corpus = Corpus(tmp_path)
    first, second = sound(2.0, 1), sound(2.0, 2)
    second[8_000:24_000] = first[8_000:24_000]
    corpus.set("train0.wav", samples=first)
    corpus.set("train1.wav", samples=second)
    assert groups(load_corpus(corpus.write())) == []
