"""Accuracy and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Accuracy:
    """Share of videos classified right, and its 95 % interval."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval (1927): right at small counts and near 0 and 1, where the normal one is not."""
        z = 1.959964
        spread = z**2 / self.total
        middle = (self.value + spread / 2) / (1 + spread)
        half = z * math.sqrt(self.value * (1 - self.value) / self.total + spread / (4 * self.total)) / (1 + spread)
        return max(0.0, middle - half), min(1.0, middle + half)


def confusion(labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], *, classes: int) -> list[list[int]]:
    """Counts by true class (rows) and predicted class (columns)."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts.tolist()
