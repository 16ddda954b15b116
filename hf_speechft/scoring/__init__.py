"""Text to numbers and pictures: error rates, their intervals, training curves."""

from .bootstrap import Interval, PairedComparison, bootstrap_interval, paired_bootstrap
from .curves import plot_training_curves
from .metrics import CER, WER, ErrorCounts, count_errors, total

__all__ = [
    "CER",
    "WER",
    "ErrorCounts",
    "Interval",
    "PairedComparison",
    "bootstrap_interval",
    "count_errors",
    "paired_bootstrap",
    "plot_training_curves",
    "total",
]
