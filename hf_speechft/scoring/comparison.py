"""One picture of several systems on the same test set: a row for each, with its error rate and how sure that is."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .bootstrap import Interval
from .curves import COLOURS

_RATE, _RUN, *_ = COLOURS


class Bar(NamedTuple):
    """A system: name, error rate, its interval, and the rates of single runs; fractions."""

    name: str
    rate: float
    interval: Interval
    runs: Sequence[float]


def plot_comparison(bars: Sequence[Bar], path: str | os.PathLike[str], *, reference: str | None = None) -> Path:
    """Draw a row for each system and save a PNG.

    Args:
        bars: From the top row down.
        path: the PNG file to write; its folder must exist.
        reference: name of the system whose error rate is drawn through all rows; nothing is drawn where it has no row.

    Returns:
        The path written.
    """
    path = Path(path)
    comparison_figure(bars, reference).savefig(path, format="png", dpi=150)
    return path


def comparison_figure(bars: Sequence[Bar], reference: str | None = None) -> Figure:
    """Build the figure."""
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for row, bar in enumerate(bars):
        rate, low, high = (100 * value for value in (bar.rate, *bar.interval))
        of_all, of_one = ("all seeds, 95 % interval", "one seed") if row == 0 else (None, None)
        panel.plot([low, high], [row, row], color=_RATE, linewidth=2)
        panel.plot(rate, row, "D", color=_RATE, markersize=6, label=of_all)
        runs = [100 * run for run in bar.runs]
        panel.plot(runs, [row + 0.22] * len(runs), "o", color=_RUN, markersize=4, label=of_one)
        if bar.name == reference:
            panel.axvline(rate, color="gray", linestyle="--", linewidth=1, zorder=0)
    panel.set_yticks(range(len(bars)), [bar.name for bar in bars])
    panel.set_ylim(len(bars) - 0.5, -0.5)
    panel.set_xlabel("test WER (%)")
    panel.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure
