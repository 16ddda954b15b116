"""One picture of a training run from the Trainer's log: losses, error rates and learning rates.

Drawn with matplotlib's Agg canvas on a figure of its own: pyplot keeps global state and may want a display.
"""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Series = tuple[list[float], list[float]]

LOSSES = {"loss": "train", "eval_loss": "validation"}
ERROR_RATES = {"eval_wer": "WER", "eval_cer": "CER"}

# Okabe and Ito's palette: distinguishable with colour-blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def plot_training_curves(
    log_history: Iterable[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    x_axis: Literal["epoch", "step"] = "epoch",
) -> Path:
    """Draw losses, error rates and learning rates side by side and save them as a PNG.

    Values that were not logged leave their panel with the words "not recorded", and values that are not finite
    are left out, so that a run that logged little still gets its picture.

    Args:
        log_history: the Trainer's `state.log_history`.
        path: the PNG file to write; its folder must exist.
        x_axis: "epoch" or "step"; where some entry lacks epochs, steps are used.

    Returns:
        The path written.

    Raises:
        ValueError: if `x_axis` is neither of the two.
    """
    if x_axis not in ("epoch", "step"):
        raise ValueError(f"x_axis is {x_axis!r}; choose 'epoch' or 'step'")
    log_history = list(log_history)
    if x_axis == "epoch" and any("epoch" not in entry for entry in log_history):
        x_axis = "step"
    path = Path(path)
    training_figure(log_history, x_axis).savefig(path, format="png", dpi=150)
    return path


def training_figure(log_history: list[Mapping[str, Any]], x_axis: str) -> Figure:
    """Build the figure with its three panels."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rates, learning_rates = figure.subplots(1, 3)
    _draw(losses, "loss", {label: _series(log_history, key, x_axis) for key, label in LOSSES.items()})
    percent = {label: _series(log_history, key, x_axis, scale=100) for key, label in ERROR_RATES.items()}
    _draw(rates, "validation error rate (%)", percent, mark_last=True)
    named = {label: _series(log_history, key, x_axis) for key, label in _learning_rate_labels(log_history).items()}
    _draw(learning_rates, "learning rate", named)
    learning_rates.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    for panel in (losses, rates, learning_rates):
        panel.set_xlabel(x_axis)
    return figure


def _learning_rate_labels(log_history: list[Mapping[str, Any]]) -> dict[str, str]:
    """Name every learning rate in the log: the Trainer's own, and one per parameter group where logged."""
    keys = dict.fromkeys(key for entry in log_history for key in entry if key.startswith("learning_rate"))
    return {key: key.removeprefix("learning_rate").strip("_/ ") or "learning rate" for key in keys}


def _series(log_history: list[Mapping[str, Any]], key: str, x_axis: str, scale: float = 1.0) -> Series:
    """Return positions and finite values of one logged quantity."""
    points = [
        (float(entry[x_axis]), float(entry[key]) * scale)
        for entry in log_history
        if x_axis in entry and isinstance(entry.get(key), int | float) and math.isfinite(entry[key])
    ]
    return [x for x, _ in points], [y for _, y in points]


def _draw(panel: Axes, title: str, series: Mapping[str, Series], *, mark_last: bool = False) -> None:
    """Draw the series that have points; say so when none has."""
    panel.set_title(title)
    panel.grid(alpha=0.3)
    drawn = {label: points for label, points in series.items() if points[0]}
    if not drawn:
        panel.text(0.5, 0.5, "not recorded", transform=panel.transAxes, ha="center", va="center", color="gray")
        return
    for colour, (label, (x, y)) in zip(COLOURS * len(drawn), drawn.items(), strict=False):
        # A line through few points hides where they are.
        panel.plot(x, y, label=label, color=colour, marker="o" if len(x) <= 30 else None, markersize=3)
        if mark_last:
            panel.annotate(f"{y[-1]:.1f}", (x[-1], y[-1]), textcoords="offset points", xytext=(0, 6), ha="right")
    panel.set_ylim(bottom=min(0.0, *(min(y) for _, y in drawn.values())))
    if len(drawn) > 1 or label != title:
        panel.legend(frameon=False)
