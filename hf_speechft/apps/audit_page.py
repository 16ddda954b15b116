"""The page of `hf-speechft audit --html`: facts, plots and players in one file that needs nothing else.

Sound is embedded as FLAC, plots as PNG: the page can be sent to who recorded the data. It is kept below 20 MB.
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
import soundfile
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_speechft.data.audio import AudioError, stream_audio
from hf_speechft.data.audit_checks import characters_per_second
from hf_speechft.scoring.curves import COLOURS

if TYPE_CHECKING:
    from datasets import DatasetDict

    from hf_speechft.data.audit import Audit
    from hf_speechft.data.findings import Finding, Flag, Utterance

TEMPLATE_PATH = Path(__file__).with_name("audit_page.html")
MAX_PLAYERS = 48
MAX_PLAYER_S = 10.0
MAX_SOUND_BYTES = 13_000_000  # of all players; base64 makes 4 bytes of 3
_PLAYER_RATE_HZ = 16_000
_ROWS_PER_SPLIT = 6


@dataclass(frozen=True)
class Row:
    """An example of a finding; `player` is a data URI, None where there is no room or no sound."""

    flag: "Flag"
    player: str | None


def audit_page(dataset: str, found: "Audit", corpus: "DatasetDict") -> str:
    """Render an audit.

    Args:
        dataset: Name of the data set.
        found: Its audit.
        corpus: The data set, which the players' sound is read from.

    Returns:
        HTML without references to anything outside.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE_PATH.read_text(encoding="utf-8"))
    noted = [finding for finding in found.findings if finding.severity != "fine"]
    return template.render(
        dataset=dataset,
        audit=found,
        sections=zip(noted, _rows(noted, corpus), strict=True),
        fine=[finding for finding in found.findings if finding.severity == "fine"],
        plots=_data_uri("image/png", plot_audit(found)),
        player_s=MAX_PLAYER_S,
    )


def _rows(findings: "list[Finding]", corpus: "DatasetDict") -> list[list[Row]]:
    """Examples of each finding; the players are shared out evenly among those that have examples."""
    share = MAX_PLAYERS // max(1, sum(bool(finding.flags) for finding in findings))
    room = MAX_SOUND_BYTES
    sections = []
    for finding in findings:
        rows = []
        for flag in finding.examples(_ROWS_PER_SPLIT):
            sound = _flac(flag.utterance, corpus) if len(rows) < share else None
            if sound is not None and len(sound) > room:
                sound = None
            room -= len(sound or b"")
            rows.append(Row(flag, _data_uri("audio/flac", sound) if sound else None))
        sections.append(rows)
    return sections


def _flac(utterance: "Utterance", corpus: "DatasetDict") -> bytes | None:
    """Encode the first seconds of an utterance; None where they cannot be decoded."""
    if not utterance.is_readable:
        return None
    clip = corpus[utterance.split][utterance.row]["audio"]
    try:
        samples = next(stream_audio(clip, _PLAYER_RATE_HZ, MAX_PLAYER_S))
    except (AudioError, StopIteration):
        return None
    file = io.BytesIO()
    soundfile.write(file, samples, _PLAYER_RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def plot_audit(found: "Audit") -> bytes:
    """Draw durations and speaking rates of each split, level and silence of the sample.

    Args:
        found: The audit.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    FigureCanvasAgg(figure)
    durations, rates, levels, silences = figure.subplots(2, 2).flat
    names = [split.name for split in found.splits]
    by_split = {name: [row for row in found.utterances if row.split == name] for name in names}
    lengths = {name: [row.duration_s for row in rows if row.is_readable] for name, rows in by_split.items()}
    speeds = {
        name: [rate for row in rows if (rate := characters_per_second(row)) is not None]
        for name, rows in by_split.items()
    }
    _draw_histogram(durations, "duration (s)", lengths)
    _draw_histogram(rates, "characters per second", speeds)
    heard = {name: [clip for clip in found.measures if clip.utterance.split == name] for name in names}
    loudness = {name: [clip.loud_db for clip in clips] for name, clips in heard.items()}
    _draw_histogram(levels, "level of the loudest 5 % (dB re full scale)", loudness)
    silence = {name: [100 * clip.silent for clip in clips] for name, clips in heard.items()}
    _draw_histogram(silences, "silence (% of a clip)", silence)
    durations.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()


def _draw_histogram(panel: Axes, title: str, values: dict[str, list[float]]) -> None:
    """Draw one line for each split, on shared bins; counts are logarithmic, so that outliers are seen."""
    panel.set_xlabel(title)
    panel.set_ylabel("clips")
    panel.set_yscale("symlog", linthresh=1)
    panel.grid(alpha=0.3)
    together = np.concatenate([np.asarray(part, dtype=float) for part in values.values()])
    edges = np.histogram_bin_edges(together, bins=40)
    for colour, (name, part) in zip(COLOURS[: len(values)], values.items(), strict=True):
        panel.stairs(np.histogram(part, edges)[0], edges, label=name, color=colour, linewidth=1.5)
