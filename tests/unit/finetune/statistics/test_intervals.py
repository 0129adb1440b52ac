"""Intervals cover the truth as often as they say, and p-values are as rare as they say, on simulated videos."""

import numpy as np
import pytest
from scipy import stats

from finetune.statistics.comparison import holm, mcnemar, paired_bootstrap
from finetune.statistics.intervals import estimates, percentile_interval, source_weights, wilson
from finetune.statistics.metrics import Scores


def simulated(random: np.random.Generator, *, share: float = 0.8, sources: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Which videos are correct, and their sources: one to four videos each, alike in difficulty."""
    sizes = random.integers(1, 5, sources)
    difficulty = random.beta(share * 2, (1 - share) * 2, sources)
    sources_S = np.repeat(np.arange(sources), sizes)
    return random.random(len(sources_S)) < difficulty[sources_S], sources_S


def test_intervals_over_sources_cover_the_truth_and_those_over_videos_do_not() -> None:
    random, covered, naive, repeats = np.random.default_rng(0), 0, 0, 400
    for seed in range(repeats):
        correct_S, sources_S = simulated(random)
        weights_BS = source_weights(sources_S, resamples=400, seed=seed)
        low, high = percentile_interval(weights_BS @ correct_S / weights_BS.sum(1), sources=40)
        covered += low <= 0.8 <= high
        low, high = wilson(correct_S.mean(), len(correct_S))
        naive += low <= 0.8 <= high
    assert 0.925 <= covered / repeats <= 0.98  # 95 % within two standard errors, and a little for few sources
    assert naive / repeats < 0.92


def test_estimates_hold_every_metric_with_its_interval() -> None:
    random = np.random.default_rng(1)
    first_S = random.beta(2, 2, 80)
    labels_S = (random.random(80) < first_S).astype(int)
    found = estimates(Scores(np.stack([1 - first_S, first_S], 1), labels_S), np.arange(80) // 2)
    assert found.keys() >= {"accuracy", "f1", "roc_auc", "average_precision", "calibration_error", "loss"}
    for name, estimate in found.items():
        assert estimate.low <= estimate.value <= estimate.high or name == "calibration_error"
        assert estimate.low < estimate.high


def test_an_accuracy_of_one_has_an_interval_too() -> None:
    found = estimates(Scores(np.eye(2)[[0, 1, 0, 1]], np.array([0, 1, 0, 1])), np.array([0, 0, 1, 1]))
    assert found["accuracy"].low == pytest.approx(wilson(1.0, 2)[0])
    assert found["accuracy"].high == 1.0


def test_p_values_of_mcnemar_are_uniform_under_the_null() -> None:
    """With a given number of discordant videos, each attainable p-value p is reached or undercut with probability p."""
    random = np.random.default_rng(0)
    first_BS = random.random((1500, 101)) < 0.5
    found = np.array([mcnemar(first_S, ~first_S).p for first_S in first_BS])
    shares = [(found <= p).mean() for p in np.unique(found)]
    assert np.abs(np.array(shares) - np.unique(found)).max() < 0.035  # Kolmogorov-Smirnov, 5 % level


def test_mcnemar_is_the_binomial_test_of_the_discordant_videos() -> None:
    first_S = np.array([1] * 9 + [0] * 2 + [1] * 5, dtype=bool)
    second_S = np.array([0] * 9 + [1] * 2 + [1] * 5, dtype=bool)
    found = mcnemar(first_S, second_S)
    assert (found.first_only, found.second_only) == (9, 2)
    assert found.p == pytest.approx(2 * stats.binom.cdf(2, 11, 0.5))
    assert mcnemar(first_S, first_S).p == 1.0


def test_the_paired_bootstrap_rejects_as_often_as_it_says_under_the_null_and_finds_a_difference() -> None:
    random, rejected, repeats = np.random.default_rng(0), 0, 300
    for seed in range(repeats):
        first_S, sources_S = simulated(random)
        second_S = np.where(random.random(len(first_S)) < 0.5, first_S, random.permutation(first_S))
        swap_S = random.random(40)[sources_S] < 0.5
        pair = (np.where(swap_S, second_S, first_S), np.where(swap_S, first_S, second_S))
        rejected += paired_bootstrap(*pair, sources_S, resamples=400, seed=seed).p <= 0.05
    assert 0.02 <= rejected / repeats <= 0.09
    better = paired_bootstrap(np.ones(60), np.arange(60) % 2 == 0, np.arange(60))
    assert better.p < 0.01
    assert 0.3 < better.estimate.low < better.estimate.value == 0.5 < better.estimate.high


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(50, 100, 0.4038, 0.5962), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (365, 400, 0.8808, 0.9364)],
)
def test_wilson_interval(correct: int, total: int, low: float, high: float) -> None:
    """Against values worked out by hand from Wilson 1927, as tabulated in Newcombe 1998 and by R's binom.wilson."""
    assert wilson(correct / total, total) == pytest.approx((low, high), abs=2e-4)
