"""Accuracy, its interval, and the confusion matrix."""

import numpy as np
import pytest

from finetune.evaluation import confusion
from finetune.statistics.intervals import wilson


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(50, 100, 0.4038, 0.5962), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (365, 400, 0.8808, 0.9364)],
)
def test_wilson_interval(correct: int, total: int, low: float, high: float) -> None:
    """Against values worked out by hand from Wilson 1927, as tabulated in Newcombe 1998 and by R's binom.wilson."""
    assert wilson(correct / total, total) == pytest.approx((low, high), abs=2e-4)


def test_confusion_counts_true_by_row() -> None:
    labels, predictions = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
    assert confusion(labels, predictions, classes=3) == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
