"""The metrics against scikit-learn's, on drawn scores with ties, weights and missing classes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from finetune.statistics import metrics
from finetune.statistics.metrics import Scores
from finetune.statistics.operating import operating_point, positive_class, reliability


@st.composite
def cases(draw: st.DrawFn, classes: int | None = None) -> tuple[Scores, np.ndarray]:
    """Scores in few distinct values, so that there are ties, and whole weights, as a bootstrap draws."""
    count, size = classes or draw(st.integers(2, 7)), draw(st.integers(8, 40))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    raw_SK = random.integers(1, draw(st.sampled_from([4, 50])), (size, count)) + random.uniform(0, 1e-9, (size, count))
    labels_S = np.concatenate([np.arange(min(count, size)), random.integers(0, count, max(0, size - count))])
    weights_S = np.maximum(random.poisson(1.0, size), np.arange(size) < count).astype(float)
    probabilities_SK = raw_SK / raw_SK.sum(axis=1, keepdims=True)
    if count == 2:
        probabilities_SK[:, 1] = np.round(probabilities_SK[:, 1], 6)
        probabilities_SK[:, 0] = 1 - probabilities_SK[:, 1]
    return Scores(probabilities_SK, labels_S, positive=int(random.integers(2)) if count == 2 else 1), weights_S


def ours(name: str, scores: Scores, weights_S: np.ndarray) -> float:
    return float(metrics.metrics(scores)[name](scores, weights_S[None])[0])


@settings(deadline=None, max_examples=60)
@given(cases())
def test_counted_metrics(case: tuple[Scores, np.ndarray]) -> None:
    scores, weights = case
    label, predicted = scores.labels_S, scores.predictions
    single = {"average": "binary", "pos_label": scores.positive} if scores.classes == 2 else {"average": "macro"}
    common = {"sample_weight": weights, "zero_division": 0, "labels": list(range(scores.classes)), **single}
    wanted = {
        "accuracy": reference.accuracy_score(label, predicted, sample_weight=weights),
        "balanced_accuracy": reference.balanced_accuracy_score(label, predicted, sample_weight=weights),
        "hamming_loss": reference.hamming_loss(label, predicted, sample_weight=weights),
        "precision": reference.precision_score(label, predicted, **common),
        "recall": reference.recall_score(label, predicted, **common),
        "f1": reference.f1_score(label, predicted, **common),
        "loss": reference.log_loss(
            label, scores.probabilities_SK, sample_weight=weights, labels=list(range(scores.classes))
        ),
    }
    for name, value in wanted.items():
        assert ours(name, scores, weights) == pytest.approx(value, abs=1e-9), name


@settings(deadline=None, max_examples=40)
@given(cases(classes=2))
def test_ranked_metrics_of_two_classes(case: tuple[Scores, np.ndarray]) -> None:
    scores, weights = case
    is_positive, score = scores.labels_S == scores.positive, scores.probabilities_SK[:, scores.positive]
    wanted = reference.roc_auc_score(is_positive, score, sample_weight=weights)
    assert ours("roc_auc", scores, weights) == pytest.approx(wanted, abs=1e-9)
    wanted = reference.average_precision_score(is_positive, score, sample_weight=weights)
    assert ours("average_precision", scores, weights) == pytest.approx(wanted, abs=1e-9)
    point = operating_point(scores, rate=0.2)
    alarms = score >= point.threshold
    assert alarms[~is_positive].mean() == pytest.approx(point.false_positive_rate)
    assert alarms[is_positive].mean() == pytest.approx(point.recall)
    assert point.false_positive_rate <= 0.2
    lower = score[score < point.threshold]
    assert not len(lower) or (score >= lower.max())[~is_positive].mean() > 0.2


@settings(deadline=None, max_examples=40)
@given(cases(classes=7))
def test_ranked_metrics_of_many_classes(case: tuple[Scores, np.ndarray]) -> None:
    scores, weights = case
    if len(np.unique(scores.labels_S)) < 7:
        return  # scikit-learn has no average over classes that do not occur
    one_hot = np.eye(7)[scores.labels_S]
    wanted = reference.roc_auc_score(one_hot, scores.probabilities_SK, average="macro", sample_weight=weights)
    assert ours("roc_auc", scores, weights) == pytest.approx(wanted, abs=1e-9)
    wanted = reference.average_precision_score(one_hot, scores.probabilities_SK, average="macro", sample_weight=weights)
    assert ours("average_precision", scores, weights) == pytest.approx(wanted, abs=1e-9)
    wanted = reference.top_k_accuracy_score(scores.labels_S, scores.probabilities_SK, k=5, sample_weight=weights)
    assert ours("hit_at_5", scores, weights) == pytest.approx(wanted, abs=1e-9)


def test_the_calibration_error_of_a_small_case_by_hand() -> None:
    probabilities_SK = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.31, 0.69]])
    scores = Scores(probabilities_SK, np.array([0, 1, 1, 1]))
    # bins of 1/15: 0.9 and 0.9 share one (accuracy 1/2), 0.7 and 0.69 another (accuracy 1)
    assert ours("calibration_error", scores, np.ones(4)) == pytest.approx((abs(1 - 1.8) + abs(2 - 1.39)) / 4)
    assert [accuracy for _, accuracy in reliability(scores)] == [1.0, 0.5]


def test_clips_are_counted_within_their_videos() -> None:
    hits = np.array([[1.0, 1.0], [0.5, 1.0]])
    scores = Scores(np.eye(2), np.array([0, 1]), clip_hits_S2=hits)
    assert ours("clip_hit_at_1", scores, np.ones(2)) == 0.75


def test_a_resample_without_a_class_leaves_the_ranked_metrics_undefined() -> None:
    scores = Scores(np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([1, 0]))
    assert math.isnan(ours("roc_auc", scores, np.array([1.0, 0.0])))
    assert ours("balanced_accuracy", scores, np.array([1.0, 0.0])) == 1.0


@pytest.mark.parametrize(
    ("classes", "chosen", "positive"),
    [
        (("Fight", "NonFight"), None, 0),
        (("NonFight", "Violence"), None, 1),
        (("normal", "theft"), None, 1),
        (("Fight", "NonFight"), "NonFight", 1),
    ],
)
def test_the_positive_class(classes: tuple[str, ...], chosen: str | None, positive: int) -> None:
    assert positive_class(classes, chosen) == positive
