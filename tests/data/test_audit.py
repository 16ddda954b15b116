"""Each planted flaw is found, in the right utterance; nothing is found in a clean corpus."""

import json
import math

import numpy as np
import pytest

from hf_speechft.data.audit import audit_corpus
from hf_speechft.data.audit_checks import Units, count_character_steps
from hf_speechft.data.corpora import filter_corpus, load_corpus
from tests.data.audit_corpora import RATE_HZ, Corpus, sound

UNITS = Units(4, 16_000, lambda duration_s, times: math.ceil(100 * duration_s / times), count_character_steps)


def run(folder, **options):
    return audit_corpus(load_corpus(folder), UNITS, **options)


def noted(found):
    """Checks that found something, with the utterances."""
    return {
        finding.check: [flag.utterance.utterance_id for flag in finding.flags]
        for finding in found.findings
        if finding.severity != "fine"
    }


def test_audit_corpus_finds_nothing_in_a_clean_corpus(tmp_path):
    found = run(Corpus(tmp_path).write())
    assert noted(found) == {}
    assert [(split.name, split.utterances, split.speakers) for split in found.splits] == [
        ("train", 12, 2), ("validation", 4, 2), ("test", 4, 2)
    ]  # fmt: skip
    assert len(found.measures) == 20
    train = found.splits[0]
    assert train.words == 3 * (4 + 4 + 4 + 4)
    assert train.duration_s == pytest.approx(sum(row.duration_s for row in found.utterances if row.split == "train"))
    assert train.clip_s["min"] <= train.clip_s["median"] <= train.clip_s["max"]


def plant_clipping(corpus):
    corpus.set("train1.wav", samples=np.clip(30 * sound(), -1, 1))


def plant_silence(corpus):
    corpus.set("test2.wav", samples=np.zeros_like(sound()))


def plant_dc_offset(corpus):
    corpus.set("train2.wav", samples=sound() + 0.1)


def plant_duplicate_across(corpus):
    corpus.set("test0.wav", samples=corpus.rows["train4.wav"][3])


def plant_duplicate_within(corpus):
    corpus.set("train9.wav", samples=corpus.rows["train5.wav"][3])


def plant_shared_speaker(corpus):
    corpus.set("test3.wav", speaker="train-0")


def plant_unknown_speaker(corpus):
    corpus.set("train3.wav", speaker="")


def plant_unknown_character(corpus):
    corpus.set("validation1.wav", text="turn the light öff")


def plant_digits(corpus):
    for name in ("train2.wav", "test2.wav"):
        corpus.set(name, text="open the big window 4")


def plant_empty_transcript(corpus):
    corpus.set("train7.wav", text="!?")


def plant_long_clip(corpus):
    corpus.set("train6.wav", text="turn the light on " * 17, samples=sound(21.0))


FLAWS = {
    plant_clipping: {"clipping": ["train1.wav"]},
    plant_silence: {"silence": ["test2.wav"]},
    plant_dc_offset: {"DC offset": ["train2.wav"]},
    plant_duplicate_across: {"duplicates across splits": ["test0.wav"]},
    plant_duplicate_within: {"duplicates within a split": ["train9.wav"]},
    plant_unknown_speaker: {"speaker names": ["train3.wav"]},
    plant_unknown_character: {"characters": ["validation1.wav"]},
    plant_digits: {"digits": ["train2.wav", "test2.wav"]},
    plant_empty_transcript: {"transcripts": ["train7.wav"]},
    plant_long_clip: {"durations": ["train6.wav"]},
    plant_shared_speaker: {
        "speakers": [f"train{number}.wav" for number in range(0, 12, 2)] + ["test3.wav"],
    },
}


@pytest.mark.parametrize(("plant", "expected"), FLAWS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_audit_corpus_finds_the_planted_flaw_and_no_other(plant, expected, tmp_path):
    corpus = Corpus(tmp_path)
    plant(corpus)
    assert noted(run(corpus.write())) == expected


def test_audit_corpus_finds_a_transcript_that_is_too_long(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.set("train8.wav", samples=sound(0.3))
    assert noted(run(corpus.write())) == {
        "alignment at 4x": ["train8.wav"], "characters per second": ["train8.wav"]
    }  # fmt: skip


def test_audit_corpus_counts_and_names_unreadable_files(tmp_path):
    folder = Corpus(tmp_path).write()
    (folder / "train" / "train0.wav").write_text("not sound")
    (folder / "test" / "test1.wav").unlink()
    cut = (folder / "train" / "train2.wav").read_bytes()
    (folder / "train" / "train2.wav").write_bytes(cut[:1000])
    found = run(folder)
    assert noted(found) == {"files": ["train0.wav", "train2.wav", "test1.wav"]}
    finding = found.findings[0]
    assert (finding.severity, finding.message) == ("problem", "3 of 20 files cannot be read")
    assert "truncated" in finding.flags[1].note
    assert "does not exist" in finding.flags[2].note
    json.dumps(found.to_dict(), allow_nan=False)


def test_audit_corpus_file_that_vanishes_after_its_header_was_read_is_a_finding(tmp_path):
    corpus = load_corpus(Corpus(tmp_path).write())
    (tmp_path / "train" / "train0.wav").unlink()
    assert noted(audit_corpus(corpus, UNITS)) == {"decoding": ["train0.wav"]}


def test_audit_corpus_is_stable_and_listens_to_a_sample(tmp_path):
    folder = Corpus(tmp_path).write()
    first, second = run(folder, sample=5, seed=1), run(folder, sample=5, seed=1)
    assert first.to_dict() == second.to_dict()
    assert len(first.measures) == first.to_dict()["sampled"] == 5
    other = run(folder, sample=5, seed=2)
    assert [clip.utterance for clip in other.measures] != [clip.utterance for clip in first.measures]
    assert run(folder, sample=0).measures == []


def test_audit_corpus_puts_problems_first(tmp_path):
    corpus = Corpus(tmp_path)
    plant_dc_offset(corpus)
    plant_duplicate_across(corpus)
    severities = [finding.severity for finding in run(corpus.write()).findings]
    assert severities == sorted(severities, key=["problem", "look", "fine"].index)
    assert len(severities) == 16


def test_audit_corpus_shows_progress_only_if_asked(tmp_path, capsys):
    corpus = load_corpus(Corpus(tmp_path).write())
    capsys.readouterr()
    audit_corpus(corpus, UNITS)
    assert capsys.readouterr().err == ""
    audit_corpus(corpus, UNITS, show_progress=True)
    shown = capsys.readouterr().err
    assert "Listening to the sample" in shown
    assert "Comparing files of equal size" in shown


def test_audit_corpus_alignment_agrees_with_the_filter_of_training(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.set("train8.wav", samples=sound(0.5))
    loaded = load_corpus(corpus.write())
    _, report = filter_corpus(
        loaded["train"],
        count_steps=lambda duration_s: UNITS.count_steps(duration_s, 4),
        count_needed_steps=UNITS.count_needed_steps,
    )
    assert noted(audit_corpus(loaded, UNITS))["alignment at 4x"] == report.dropped["cannot be aligned"]


@pytest.mark.speech
def test_audit_corpus_real_speech_has_no_problem(speech_folder):
    found = run(speech_folder / "an4", sample=100)
    assert "problem" not in {finding.severity for finding in found.findings}
    assert found.measures[0].rate_hz == RATE_HZ
