"""95 % intervals by bootstrap over source videos, because clips of one source are not independent.

Each resample draws as many sources as there are, with replacement, and takes all their clips.

Shapes: S videos, G sources, B resamples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from finetune.statistics.metrics import Floats, Scores, metrics, value

RESAMPLES = 2000
_LEVEL = 0.95
_CHUNK = 4_000_000  # weights held at once


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; nan where the metric is not defined."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """JSON-like values; None for nan."""
        return {name: None if math.isnan(number) else number for name, number in asdict(self).items()}


def source_weights(sources_S: npt.NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return weights_BS: how often each video occurs in each resample of the sources."""
    numbers_S = np.unique(sources_S, return_inverse=True)[1]
    sources = int(numbers_S.max(initial=-1)) + 1
    counts_BG = np.random.default_rng(seed).multinomial(sources, np.full(sources, 1 / sources), size=resamples)
    return counts_BG[:, numbers_S].astype(np.float64)


def percentile_interval(values_B: Floats, *, sources: int) -> tuple[float, float]:
    """The expanded percentile interval of bootstrap values (Hesterberg 2015, section 5.3).

    The plain percentiles are too narrow for few sources: they lack the factor sqrt(G / (G - 1)) and Student's t.
    """
    defined = values_B[~np.isnan(values_B)]
    if not len(defined) or sources < 2:
        return math.nan, math.nan
    quantile = stats.t.ppf((1 - _LEVEL) / 2, sources - 1) * math.sqrt(sources / (sources - 1))
    tail = float(stats.norm.cdf(quantile))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def estimates(
    scores: Scores, sources_S: npt.NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Return every metric of the scores with its interval; that of the accuracy as in `share_interval`."""
    sources = len(np.unique(sources_S))
    weights_BS = source_weights(sources_S, resamples=resamples, seed=seed)
    rows = max(1, _CHUNK // max(1, len(sources_S)))
    found = {}
    for name, metric in metrics(scores).items():
        chunks = [metric(scores, weights_BS[start : start + rows]) for start in range(0, resamples, rows)]
        known, values_B = value(metric, scores), np.concatenate(chunks)
        interval = percentile_interval(values_B, sources=sources)
        found[name] = Estimate(known, *(share_interval(known, values_B, sources) if name == "accuracy" else interval))
    right = found["accuracy"]
    return found | {"hamming_loss": Estimate(1 - right.value, 1 - right.high, 1 - right.low)}


def share_interval(share: float, values_B: Floats, sources: int) -> tuple[float, float]:
    """`percentile_interval`, or Wilson's for as many trials as sources, where all resamples are equal.

    They are at a share of 0 or 1, and where every source has the same share.
    """
    low, high = percentile_interval(values_B, sources=sources)
    return (low, high) if low < high else wilson(share, sources)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share among `count` independent trials; accurate near 0 and 1."""
    z = float(stats.norm.ppf((1 + _LEVEL) / 2))
    spread = z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
