import math
from dataclasses import replace

import numpy as np
import pytest

from hf_speechft.data.audit_checks import (
    Units,
    check_alignment,
    check_characters,
    check_durations,
    check_rates,
    check_speaker_names,
    check_speakers,
    check_transcripts,
    count_character_steps,
)
from tests.data.audit_corpora import utterance

UNITS = Units(4, 16_000, lambda duration_s, times: math.ceil(100 * duration_s / times), count_character_steps)


def flagged(finding):
    return [flag.utterance.row for flag in finding.flags]


def test_check_alignment_says_what_helps():
    rows = [utterance("turn on", 1.0, row=0), utterance("turn on", 0.2, row=1), utterance("all", 0.02, row=2)]
    finding = check_alignment(rows + [utterance(row=row) for row in range(3, 400)], UNITS)
    assert finding.severity == "look"
    assert flagged(finding) == [2, 1]  # the worst first
    assert finding.message == "2 utterances cannot be aligned at 4x, 1 at 2x"
    assert finding.remedy.endswith("use --subsampling 2 or the native vocabulary")
    assert finding.flags[1].note == "5 steps for the 7 that its transcript needs"


@pytest.mark.parametrize(
    ("subsampling", "duration_s", "remedy"),
    [
        (8, 0.3, "use --subsampling 4 or the native"),  # the largest that helps as much
        (8, 0.2, "use --subsampling 2 or the native"),
        (8, 0.01, "use the native vocabulary"),
        (2, 0.01, "use the native vocabulary"),
    ],
)
def test_check_alignment_recommends_the_cheapest_that_helps_most(subsampling, duration_s, remedy):
    finding = check_alignment([utterance("turn on", duration_s)], replace(UNITS, subsampling=subsampling))
    assert finding.severity == "problem"
    assert remedy in finding.remedy


def test_check_alignment_with_native_units_asks_for_the_transcripts():
    units = replace(UNITS, subsampling=2, are_characters=False)
    assert check_alignment([utterance("turn on", 0.01)], units).remedy == (
        "check that the transcripts belong to these clips"
    )


def test_check_alignment_leaves_unreadable_and_empty_to_others():
    assert check_alignment([utterance("turn on", math.nan), utterance("", 0.01)], UNITS).severity == "fine"


def test_check_rates_finds_planted_outliers_only():
    random = np.random.default_rng(0)
    rows = [utterance("x" * 30, 30 / (14 * math.exp(random.normal(0, 0.15))), row=row) for row in range(500)]
    assert check_rates(rows).severity == "fine"
    rows[7], rows[9] = utterance("x" * 30, 0.3, row=7), utterance("x" * 30, 20.0, row=9)
    finding = check_rates(rows)
    assert (finding.severity, sorted(flagged(finding))) == ("look", [7, 9])
    assert finding.flags[1].note.startswith("100.0 characters/s, z +")


def test_check_rates_of_equal_rates_is_fine():
    assert check_rates([utterance(row=row, duration_s=1 + 0.001 * row) for row in range(20)]).severity == "fine"
    assert check_rates([]).severity == "fine"


def test_check_durations_finds_short_and_long():
    finding = check_durations([utterance(duration_s=length, row=row) for row, length in enumerate((1, 0.05, 25, 30))])
    assert (finding.severity, flagged(finding)) == ("problem", [3, 2, 1])
    assert finding.message == "1 clip below 0.1 s, 2 above 20 s"
    assert check_durations([utterance(), utterance(duration_s=math.nan)]).severity == "fine"


def test_check_transcripts_finds_empty_ones_and_digits():
    empty, digits = check_transcripts([utterance(" "), utterance("at 7", row=1), utterance("at seven", row=2)])
    assert (empty.severity, flagged(empty)) == ("problem", [0])
    assert (digits.severity, flagged(digits)) == ("look", [1])
    assert {finding.severity for finding in check_transcripts([utterance()])} == {"fine"}


def test_check_characters_are_those_of_training_or_of_the_model():
    rows = [utterance("abc"), utterance("ab", split="test"), utterance("aé\u0301 x", split="test", row=1)]
    finding = check_characters(rows, UNITS)
    assert (finding.severity, flagged(finding)) == ("problem", [1])
    assert finding.message.startswith("3 characters not in the training transcripts: ")
    assert "U+0301 (1)" in finding.message
    assert finding.flags[0].note == "unknown: x é U+0301"
    finding = check_characters(rows, replace(UNITS, characters=frozenset("ab")))
    assert flagged(finding) == [0, 1]
    assert check_characters(rows, replace(UNITS, characters=frozenset("abcxé\u0301"))).severity == "fine"


def test_check_speakers_finds_those_in_two_splits():
    rows = [utterance(speaker_id=name, split=split, row=row) for row, (name, split) in enumerate(
        [("anna", "train"), ("ben", "train"), ("anna", "test"), ("carl", "test"), ("", "train"), ("", "test")]
    )]  # fmt: skip
    finding = check_speakers(rows)
    assert (finding.severity, flagged(finding)) == ("problem", [0, 2])
    assert "1 speaker in several splits (anna)" in finding.message
    names = check_speaker_names(rows)
    assert (names.severity, flagged(names)) == ("look", [4, 5])


def test_check_speakers_one_voice_is_worth_a_look():
    rows = [utterance(split=split) for split in ("train", "test")]
    assert check_speakers(rows).severity == "look"
    assert check_speaker_names(rows).severity == "fine"
