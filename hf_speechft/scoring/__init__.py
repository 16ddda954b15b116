"""Text to numbers and pictures: error rates, their intervals, training curves, comparisons."""

from .bootstrap import Interval, PairedComparison, bootstrap_interval, paired_bootstrap
from .comparison import Bar, plot_comparison
from .curves import plot_training_curves
from .metrics import CER, WER, ErrorCounts, count_errors, total

__all__ = [
    "CER",
    "WER",
    "Bar",
    "ErrorCounts",
    "Interval",
    "PairedComparison",
    "bootstrap_interval",
    "count_errors",
    "paired_bootstrap",
    "plot_comparison",
    "plot_training_curves",
    "total",
]
