"""What a threshold on a score does: ROC and precision-recall curves, thresholds at a false-positive rate, reliability.

Shapes: S videos, N bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sklearn_metrics

from finetune.statistics.metrics import Floats, Scores

FALSE_POSITIVE_RATES = (0.01, 0.05, 0.1)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold at or above which a video counts as positive, and the rates it has on the videos it was chosen on."""

    wanted: float  # false-positive rate at most
    threshold: float
    false_positive_rate: float
    recall: float


def positive_class(classes: tuple[str, ...], chosen: str | None = None) -> int:
    """The index of the positive class: `chosen`, else the first class whose name does not begin with no or normal."""
    if chosen is not None:
        return classes.index(chosen)
    others = [number for number, name in enumerate(classes) if not name.lower().startswith(("no", "background"))]
    return others[0] if others else len(classes) - 1


def roc_points(scores: Scores) -> list[tuple[float, float]]:
    """(false-positive rate, recall) of the positive class at each threshold that matters."""
    false_rates, recalls, _ = _roc(scores)
    return list(zip(false_rates.tolist(), recalls.tolist(), strict=True))


def precision_recall_points(scores: Scores) -> list[tuple[float, float]]:
    """(recall, precision) of the positive class, by rising recall."""
    precisions, recalls, _ = sklearn_metrics.precision_recall_curve(
        scores.labels_S == scores.positive, scores.probabilities_SK[:, scores.positive]
    )
    return list(zip(recalls[::-1].tolist(), precisions[::-1].tolist(), strict=True))


def operating_point(scores: Scores, *, rate: float) -> OperatingPoint:
    """The lowest threshold whose false-positive rate is at most `rate`."""
    false_rates, recalls, thresholds = _roc(scores)
    last = int(np.flatnonzero(false_rates <= rate)[-1])
    threshold = min(float(np.nextafter(1, 2)), float(thresholds[last]))  # just above 1: no score may pass
    return OperatingPoint(rate, threshold, float(false_rates[last]), float(recalls[last]))


def _roc(scores: Scores) -> tuple[Floats, Floats, Floats]:
    is_positive_S: npt.NDArray[np.bool_] = scores.labels_S == scores.positive
    return sklearn_metrics.roc_curve(
        is_positive_S, scores.probabilities_SK[:, scores.positive], drop_intermediate=False
    )


def reliability(scores: Scores, *, bins: int = 10) -> list[tuple[float, float]]:
    """(mean of the highest probability, accuracy) of the videos in each bin of equal width that holds some."""
    confidence_S, correct_S = scores.probabilities_SK.max(axis=1), scores.correct
    bins_S = np.clip(np.ceil(confidence_S * bins) - 1, 0, bins - 1).astype(int)
    members = [bins_S == number for number in np.unique(bins_S)]
    return [(float(confidence_S[mine].mean()), float(correct_S[mine].mean())) for mine in members]
