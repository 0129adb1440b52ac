"""The result of an evaluation and its file, `evaluation.json`: metrics with intervals, confusion, operating points.

Intervals come from a bootstrap over source videos; see `finetune.statistics.intervals`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.predictions import Predictions
from finetune.statistics import metrics
from finetune.statistics.intervals import Estimate, estimates
from finetune.statistics.metrics import Scores
from finetune.statistics.operating import FALSE_POSITIVE_RATES, operating_point

FILE = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """The predictions of one split, and what follows from them; `views` is clips x crops."""

    predictions: Predictions
    views: str
    positive: str | None = None  # name of the positive one of two classes; None: see `positive_class`

    @property
    def classes(self) -> tuple[str, ...]:
        return self.predictions.classes

    @functools.cached_property
    def scores(self) -> Scores:
        return self.predictions.scores(self.positive)

    @property
    def total(self) -> int:
        return len(self.predictions.keys)

    @property
    def correct(self) -> int:
        return int(self.scores.correct.sum())

    @property
    def loss(self) -> float:
        """Cross-entropy of the mean probabilities."""
        return metrics.value(metrics.loss, self.scores)

    @functools.cached_property
    def values(self) -> Mapping[str, float]:
        """Every metric without its interval; nan where it is not defined."""
        return {name: metrics.value(metric, self.scores) for name, metric in metrics.metrics(self.scores).items()}

    @functools.cached_property
    def estimates(self) -> Mapping[str, Estimate]:
        """Every metric with its interval; takes a second."""
        return estimates(self.scores, self.predictions.source_numbers)

    @property
    def clean(self) -> Evaluation | None:
        """The evaluation without the videos that are in the train split too; None if there are none, or no others."""
        duplicate_S = self.predictions.duplicate_S
        if not duplicate_S.any() or duplicate_S.all():
            return None
        return Evaluation(self.predictions.where(~duplicate_S), self.views, self.positive)

    def to_dict(self, *, holdout: Evaluation | None = None) -> dict[str, Any]:
        """Return the content of evaluation.json; thresholds are chosen on `holdout`, without one on this split."""
        accuracy, clean = self.estimates["accuracy"], self.clean
        found = {
            "accuracy": accuracy.value,
            "interval": [accuracy.low, accuracy.high],
            "correct": self.correct,
            "total": self.total,
            "loss": self.loss,
            "classes": list(self.classes),
            "confusion": self.predictions.confusion,
            "views": self.views,
            "sources": len(set(self.predictions.sources)),
            "metrics": {name: estimate.to_dict() for name, estimate in self.estimates.items()},
        }
        if len(self.classes) == 2:
            found |= {"positive": self.classes[self.scores.positive], "operating_points": self._points(holdout)}
        if clean is not None:
            names = ("accuracy", "interval", "correct", "total")
            found["clean"] = {name: value for name, value in clean.to_dict().items() if name in names}
        return found

    def _points(self, holdout: Evaluation | None) -> list[dict[str, Any]]:
        chooser = self if holdout is None else holdout
        if len(np.unique(chooser.scores.labels_S)) < 2 or len(np.unique(self.scores.labels_S)) < 2:
            return []
        scores, is_positive_S = self.scores, self.scores.labels_S == self.scores.positive
        points = []
        for rate in FALSE_POSITIVE_RATES:
            point = operating_point(chooser.scores, rate=rate)
            alarm_S = scores.probabilities_SK[:, scores.positive] >= point.threshold
            here = {"false_positive_rate": alarm_S[~is_positive_S].mean(), "recall": alarm_S[is_positive_S].mean()}
            points.append({**asdict(point), **here, "chosen_on": "holdout" if holdout is not None else "itself"})
        return points


def describe(result: Evaluation) -> str:
    """Format the evaluation as text."""
    accuracy = result.estimates["accuracy"]
    width = max(len(name) for name in result.classes)
    lines = [
        f"accuracy {accuracy.value:.1%} ({result.correct} of {result.total} videos), "
        f"95 % interval {accuracy.low:.1%} to {accuracy.high:.1%}, {result.views} views a video"
    ]
    if result.clean is not None:
        clean = result.clean.estimates["accuracy"]
        lines.append(
            f"without the {result.total - result.clean.total} videos that are in the train split too: "
            f"{clean.value:.1%} ({result.clean.correct} of {result.clean.total}), "
            f"95 % interval {clean.low:.1%} to {clean.high:.1%}"
        )
    lines += [
        f"  {name.replace('_', ' '):<18}{estimate.value:7.3f}   {estimate.low:.3f} to {estimate.high:.3f}"
        for name, estimate in result.estimates.items()
        if name != "accuracy"
    ]
    lines += [
        "confusion, rows true, columns predicted:",
        " " * (width + 2) + "  ".join(f"{name:>{width}}" for name in result.classes),
    ]
    for name, counts in zip(result.classes, result.predictions.confusion, strict=True):
        lines.append(f"  {name:<{width}}" + "  ".join(f"{count:>{width}}" for count in counts))
    return "\n".join(lines) + "\n"
