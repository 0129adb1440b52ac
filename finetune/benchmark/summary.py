"""Join the seeds of each model to one line of the table, and compare the models pairwise.

A model's accuracy is the mean over its seeds. Its interval and the paired bootstrap resample source videos; McNemar's
test is on the first seed. Both p-values are corrected over all pairs by Holm's method.

Shapes: S videos.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.benchmark.results import BenchmarkRow
from finetune.predictions import FILE, Predictions, PredictionsError
from finetune.statistics.comparison import holm, mcnemar, paired_bootstrap
from finetune.statistics.intervals import share_interval, source_weights
from finetune.statistics.metrics import Floats, mean


@dataclass(frozen=True)
class Model:
    """The runs of one model on one part of the labels, and their predictions; without files there are none."""

    rows: tuple[BenchmarkRow, ...]
    predictions: tuple[Predictions, ...]
    accuracy: float
    interval: tuple[float, float]

    @property
    def first(self) -> BenchmarkRow:
        return self.rows[0]

    @property
    def title(self) -> str:
        return self.first.title

    @property
    def seconds(self) -> float:
        """Mean training time."""
        return statistics.fmean(row.seconds for row in self.rows)

    @property
    def seeds(self) -> str:
        """The seeds, with their accuracies if there are several."""
        if len(self.rows) == 1:
            return f"seed {self.first.seed}"
        return "seeds " + ", ".join(f"{row.seed}: {100 * row.accuracy:.1f} %" for row in self.rows)

    @property
    def training_tmacs(self) -> float | None:
        """10^12 multiply-adds of the training of the first seed; None if it was not counted or nothing was trained."""
        gmacs, clips = self.first.training_gmacs, self.first.trained_clips
        return gmacs * clips / 1000 if gmacs and clips else None

    def metric(self, name: str) -> float | None:
        """The mean of a metric over the seeds; None if a run lacks it."""
        return _mean([row.metrics.get(name, {}).get("value") for row in self.rows])

    def clean(self) -> tuple[float, int] | None:
        """The mean accuracy without the videos of the train split, and the number of the others."""
        share = _mean([row.clean.accuracy if row.clean else None for row in self.rows])
        return None if share is None or self.first.clean is None else (share, self.first.clean.total)

    def cross(self, name: str) -> float | None:
        """The mean accuracy on another data set; None if a run lacks it."""
        return _mean([row.cross[name].accuracy if name in row.cross else None for row in self.rows])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def summarize(folder: Path, rows: Sequence[BenchmarkRow]) -> list[Model]:
    """Join the rows that differ in the seed alone, in the order of the first ones."""
    joined: dict[tuple[str, str], list[BenchmarkRow]] = {}
    for row in rows:
        joined.setdefault((row.title, row.labels), []).append(row)
    return [_model(folder, tuple(seeds)) for seeds in joined.values()]


def on_all_labels(models: Sequence[Model]) -> list[Model]:
    """The models that were trained on all labels; without any, those on parts of them."""
    return [model for model in models if model.first.labels == "all"] or list(models)


def _model(folder: Path, rows: tuple[BenchmarkRow, ...]) -> Model:
    try:
        found = tuple(Predictions.load(folder / row.run / FILE) for row in rows)
    except PredictionsError:
        found = ()
    accuracy, interval = statistics.fmean(row.accuracy for row in rows), rows[0].interval
    if len({each.keys for each in found}) > 1:
        found = ()
    if len(found) > 1:
        sources = found[0].source_numbers
        means_B = mean(mean_correct(found), source_weights(sources))
        interval = share_interval(accuracy, means_B, len(np.unique(sources)))
    return Model(rows, found, accuracy, interval)


def mean_correct(predictions: Sequence[Predictions]) -> Floats:
    """The share of seeds that classify each video (S,) correctly."""
    return np.mean([each.scores().correct for each in predictions], axis=0)


@dataclass(frozen=True)
class Pair:
    """Two models on the same videos: the first's accuracy less the second's, and corrected p-values."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_mcnemar: float
    first_only: int  # videos that only the first one classifies correctly, first seed
    second_only: int


def compare(models: Sequence[Model]) -> list[Pair]:
    """Compare every two models with predictions of the same videos; the better one stands first."""
    ordered = sorted((model for model in models if model.predictions), key=lambda model: -model.accuracy)
    found = [
        (first, second)
        for first, second in itertools.combinations(ordered, 2)
        if first.predictions[0].keys == second.predictions[0].keys
    ]
    boots = [
        paired_bootstrap(mean_correct(a.predictions), mean_correct(b.predictions), a.predictions[0].source_numbers)
        for a, b in found
    ]
    tests = [mcnemar(*(model.predictions[0].scores().correct.astype(bool) for model in pair)) for pair in found]
    p_boots, p_tests = holm([each.p for each in boots]), holm([each.p for each in tests])
    return [
        Pair(
            first=first.title,
            second=second.title,
            difference=boot.estimate.value,
            low=boot.estimate.low,
            high=boot.estimate.high,
            p_bootstrap=p_boot,
            p_mcnemar=p_test,
            first_only=test.first_only,
            second_only=test.second_only,
        )
        for (first, second), boot, test, p_boot, p_test in zip(found, boots, tests, p_boots, p_tests, strict=True)
    ]
