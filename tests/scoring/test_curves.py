"""Training curves: the numbers on the axes are the numbers in the log."""

import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from hf_speechft.scoring import curves
from hf_speechft.scoring.curves import plot_training_curves, training_figure

LOG = [
    {"loss": 9.0, "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": 0.5, "step": 5},
    {"loss": 5.0, "grad_norm": 1.0, "learning_rate": 3e-4, "epoch": 1.0, "step": 10},
    {"eval_loss": 4.0, "eval_wer": 0.9, "eval_cer": 0.5, "eval_runtime": 1.0, "epoch": 1.0, "step": 10},
    {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": 2.0, "step": 20},
    {"eval_loss": 1.5, "eval_wer": 0.213, "eval_cer": 0.095, "eval_runtime": 1.0, "epoch": 2.0, "step": 20},
    {"train_runtime": 60.0, "train_loss": 5.3, "total_flos": 0.0, "epoch": 2.0, "step": 20},
]


def lines(panel):
    return {line.get_label(): line.get_xydata().tolist() for line in panel.get_lines()}


def test_training_figure_panels_hold_logged_numbers():
    losses, rates, learning_rates = training_figure(LOG, "epoch").axes
    assert lines(losses) == {"train": [[0.5, 9], [1, 5], [2, 2]], "validation": [[1, 4], [2, 1.5]]}
    assert lines(rates) == {
        "WER": [[1, pytest.approx(90)], [2, pytest.approx(21.3)]],
        "CER": [[1, pytest.approx(50)], [2, pytest.approx(9.5)]],
    }
    assert lines(learning_rates) == {"learning rate": [[0.5, 1e-4], [1, 3e-4], [2, 1e-4]]}
    assert [text.get_text() for text in rates.texts] == ["21.3", "9.5"]


def test_training_figure_steps_are_the_axis():
    losses = training_figure(LOG, "step").axes[0]
    assert [x for x, _ in lines(losses)["train"]] == [5, 10, 20]
    assert losses.get_xlabel() == "step"


def test_training_figure_several_learning_rates_are_named():
    log = [{"learning_rate": 3e-4, "learning_rate_head": 9e-4, "epoch": i, "step": i} for i in range(3)]
    panel = training_figure(log, "epoch").axes[2]
    assert set(lines(panel)) == {"learning rate", "head"}
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["learning rate", "head"]


def test_training_figure_values_not_finite_are_left_out():
    log = [{"loss": math.nan, "epoch": 0, "step": 0}, {"loss": 1.0, "epoch": 1, "step": 1}]
    assert lines(training_figure(log, "epoch").axes[0]) == {"train": [[1, 1]]}


def test_plot_training_curves_writes_readable_png(tmp_path):
    path = plot_training_curves(LOG, tmp_path / "curves.png")
    image = imread(path)
    assert image.shape[:2] == (540, 1800)
    assert np.ptp(image) > 0.9


def test_plot_training_curves_empty_log_says_so(tmp_path):
    assert plot_training_curves([], tmp_path / "empty.png").stat().st_size > 0
    panels = training_figure([], "epoch").axes
    assert [panel.texts[0].get_text() for panel in panels] == ["not recorded"] * 3


def test_plot_training_curves_without_epochs_uses_steps(tmp_path, monkeypatch):
    labels = []

    def save(figure, *args, **kwargs):
        labels.extend(panel.get_xlabel() for panel in figure.axes)

    monkeypatch.setattr(Figure, "savefig", save)
    plot_training_curves([{"loss": 1.0, "step": 1}], tmp_path / "curves.png")
    assert labels == ["step"] * 3


def test_plot_training_curves_unknown_axis_raises(tmp_path):
    with pytest.raises(ValueError, match="x_axis is 'hours'; choose 'epoch' or 'step'"):
        plot_training_curves(LOG, tmp_path / "curves.png", x_axis="hours")


def test_plot_training_curves_same_log_same_bytes(tmp_path):
    first, second = (plot_training_curves(LOG, tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second


def test_curves_module_keeps_out_of_pyplot():
    # The file by itself: the package's other modules may use pyplot through their libraries.
    script = f"import runpy, sys; runpy.run_path({curves.__file__!r}); print('matplotlib.pyplot' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
