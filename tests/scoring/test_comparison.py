"""The picture of a comparison: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.image import imread

from hf_speechft.scoring.bootstrap import Interval
from hf_speechft.scoring.comparison import Bar, comparison_figure, plot_comparison

BARS = [Bar("full", 0.2, Interval(0.15, 0.26), [0.18, 0.22]), Bar("random", 0.5, Interval(0.4, 0.6), [0.5])]


def test_comparison_figure_has_a_row_for_each_system():
    panel = comparison_figure(BARS, "random").axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["full", "random"]
    top, bottom = panel.get_ylim()[::-1]
    assert top < 0 < 1 < bottom
    drawn = [np.asarray(line.get_xdata(), float).tolist() for line in panel.get_lines()]
    expected = [[15, 26], [20], [18, 22], [40, 60], [50], [50], [50, 50]]
    assert drawn == [pytest.approx(one) for one in expected]


def test_comparison_figure_without_the_reference_has_no_line_through_all_rows():
    assert len(comparison_figure(BARS, "other").axes[0].get_lines()) == 6


def test_plot_comparison_writes_readable_png(tmp_path):
    image = imread(plot_comparison(BARS, tmp_path / "comparison.png"))
    assert image.shape[1] == 1050
    assert np.ptp(image) > 0.9
