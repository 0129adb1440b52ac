"""Paired tests between two models on the same videos, and Holm's correction for many pairs.

McNemar's test counts videos and takes them as independent. The paired bootstrap resamples source videos, so it also
holds for several clips of one source.

Shapes: S videos, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from finetune.statistics.intervals import RESAMPLES, Estimate, percentile_interval, source_weights
from finetune.statistics.metrics import Floats, mean


@dataclass(frozen=True)
class McNemar:
    """Videos that only the first model classifies correctly, only the second, and the two-sided exact p-value."""

    first_only: int
    second_only: int
    p: float


def mcnemar(first_S: npt.NDArray[np.bool_], second_S: npt.NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test (1947) on which videos two models classify correctly."""
    first_only, second_only = int((first_S & ~second_S).sum()), int((second_S & ~first_S).sum())
    discordant = first_only + second_only
    p = float(stats.binomtest(first_only, discordant).pvalue) if discordant else 1.0
    return McNemar(first_only, second_only, p)


@dataclass(frozen=True)
class Difference:
    """The mean of the first model's values less that of the second's, its interval, and the two-sided p-value."""

    estimate: Estimate
    p: float


def paired_bootstrap(
    first_S: Floats, second_S: Floats, sources_S: npt.NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Compare the means of two models' values of the same videos by resampling sources.

    The p-value is twice the smaller share of resamples on either side of no difference (Efron and Tibshirani 1993,
    section 15.4), and never below 2 / (B + 1).
    """
    differences_S = np.asarray(first_S, dtype=np.float64) - np.asarray(second_S, dtype=np.float64)
    means_B = mean(differences_S, source_weights(sources_S, resamples=resamples, seed=seed))
    low, high = percentile_interval(means_B, sources=len(np.unique(sources_S)))
    smaller = min((means_B <= 0).sum(), (means_B >= 0).sum())
    return Difference(Estimate(float(differences_S.mean()), low, high), min(1.0, 2 * (smaller + 1) / (resamples + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): adjusted p-values, which control the chance of any false finding."""
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(count, 0, -1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return adjusted.tolist()
