"""The audit of a corpus: what it holds and what is wrong with it, before hours go into training on it.

Durations come from the headers, duplicates from the files' bytes; only a sample is decoded, so that 100,000 files take
minutes. The checks are in audit_checks.py, audit_audio.py and duplicates.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datasets import DatasetDict

from hf_speechft.data.audit_audio import ClipMeasures, check_audio, check_decodable, draw_sample, measure_sample
from hf_speechft.data.audit_checks import (
    Units,
    characters_per_second,
    check_alignment,
    check_characters,
    check_durations,
    check_rates,
    check_readable,
    check_speaker_names,
    check_speakers,
    check_transcripts,
)
from hf_speechft.data.duplicates import check_duplicates, find_duplicates
from hf_speechft.data.findings import SEVERITIES, Finding, Utterance, read_utterances

PERCENTILES = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}
Spread = dict[str, float]


@dataclass(frozen=True)
class SplitAudit:
    """What a split holds.

    Attributes:
        name: Its name.
        utterances: Rows, whether they can be read or not.
        duration_s: Seconds of sound.
        speakers: Number of known speakers; None if there are none.
        words: Words in its transcripts.
        clip_s: Spread of the clips' durations in seconds, empty where none can be read.
        characters_per_s: Spread of the speaking rates, likewise.
    """

    name: str
    utterances: int
    duration_s: float
    speakers: int | None
    words: int
    clip_s: Spread
    characters_per_s: Spread


@dataclass(frozen=True)
class Audit:
    """What a corpus holds, and what was found in it.

    Attributes:
        splits: Facts of each split.
        findings: One for each check, problems first.
        measures: What was heard in the sampled clips.
        utterances: All rows.
    """

    splits: list[SplitAudit]
    findings: list[Finding]
    measures: list[ClipMeasures]
    utterances: list[Utterance]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; the same corpus, sample and seed give the same."""
        return {
            "splits": [_rounded(asdict(split)) for split in self.splits],
            "sampled": len(self.measures),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def audit_corpus(
    corpus: DatasetDict, units: Units, *, sample: int = 500, seed: int = 0, show_progress: bool = False
) -> Audit:
    """Audit a corpus.

    Args:
        corpus: From `load_corpus`, which has read the headers.
        units: What the model that is to be trained makes of sound and text.
        sample: Number of utterances whose sound is decoded.
        seed: Seed of the sample.
        show_progress: Whether to show bars.

    Returns:
        Facts and findings; files that cannot be read are a finding and never an error.
    """
    utterances = read_utterances(corpus)
    drawn = draw_sample(utterances, sample, seed)
    measures, broken = measure_sample(corpus, drawn, show_progress=show_progress)
    findings = [
        check_readable(corpus, utterances),
        check_decodable(broken, len(drawn)),
        *check_duplicates(find_duplicates(corpus, utterances, show_progress=show_progress)),
        check_speakers(utterances),
        check_speaker_names(utterances),
        check_alignment(utterances, units),
        *check_transcripts(utterances),
        check_characters(utterances, units),
        check_rates(utterances),
        check_durations(utterances),
        *check_audio(measures, units.sampling_rate_hz),
    ]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    splits = [_split_audit(name, [row for row in utterances if row.split == name]) for name in corpus]
    return Audit(splits, findings, measures, utterances)


def _split_audit(name: str, utterances: Sequence[Utterance]) -> SplitAudit:
    durations = [utterance.duration_s for utterance in utterances if utterance.is_readable]
    rates = [rate for utterance in utterances if (rate := characters_per_second(utterance)) is not None]
    speakers = {utterance.speaker_id for utterance in utterances} - {""}
    return SplitAudit(
        name=name,
        utterances=len(utterances),
        duration_s=math.fsum(durations),
        speakers=len(speakers) or None,
        words=sum(len(utterance.text.split()) for utterance in utterances),
        clip_s=_spread(durations),
        characters_per_s=_spread(rates),
    )


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return {}
    return dict(zip(PERCENTILES, np.percentile(values, list(PERCENTILES.values())).tolist(), strict=True))


def _rounded(value: Any) -> Any:
    """Round the floats in nested dicts to 3 places."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 3) if isinstance(value, float) else value
