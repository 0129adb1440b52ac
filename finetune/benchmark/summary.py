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
        found = [row.metrics[name].value if name in row.metrics else None for row in self.rows]
        values = [value for value in found if value is not None]
        return statistics.fmean(values) if len(values) == len(found) else None

    def clean(self) -> tuple[float, int] | None:
        """The mean accuracy without the videos of the train split, and the number of the others."""
        found = [row.clean for row in self.rows if row.clean is not None]
        if len(found) < len(self.rows):
            return None
        return statistics.fmean(each.accuracy for each in found), found[0].total

    def cross(self, name: str) -> float | None:
        """The mean accuracy on another data set; None if a run lacks it."""
        found = [row.cross[name].accuracy for row in self.rows if name in row.cross]
        return statistics.fmean(found) if len(found) == len(self.rows) else None


def summarize(folder: Path, rows: Sequence[BenchmarkRow]) -> list[Model]:
    """Join the rows that differ in the seed alone, in the order of the first ones."""
    keys = list(dict.fromkeys(row.key for row in rows))
    return [_model(folder, tuple(row for row in rows if row.key == key)) for key in keys]


def _model(folder: Path, rows: tuple[BenchmarkRow, ...]) -> Model:
    accuracy = statistics.fmean(row.accuracy for row in rows)
    try:
        found = tuple(Predictions.load(folder / row.run / FILE) for row in rows)
    except PredictionsError:
        found = ()
    if not found or len(rows) == 1 or len({each.keys for each in found}) > 1:
        return Model(rows, found if len({each.keys for each in found}) == 1 else (), accuracy, rows[0].interval)
    sources = found[0].source_numbers
    means_B = mean(mean_correct(found), source_weights(sources))
    return Model(rows, found, accuracy, share_interval(accuracy, means_B, len(np.unique(sources))))


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
            first=found[i][0].title,
            second=found[i][1].title,
            difference=boots[i].estimate.value,
            low=boots[i].estimate.low,
            high=boots[i].estimate.high,
            p_bootstrap=p_boots[i],
            p_mcnemar=p_tests[i],
            first_only=tests[i].first_only,
            second_only=tests[i].second_only,
        )
        for i in range(len(found))
    ]
