"""Metrics of classification as weighted functions of the scores, so that one call evaluates all bootstrap resamples.

With two classes, precision, recall, F1, ROC-AUC and average precision are those of the positive class; with more they
are macro averages over the classes (one against the rest). The definitions are scikit-learn's.

Shapes: S videos, K classes, B weightings of the videos, T distinct scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BINS = 15  # of the calibration error, as in Guo et al. 2017
_SMALLEST = 1e-12  # probability in the loss


@dataclass(frozen=True)
class Scores:
    """Probabilities (S, K) and labels (S,) of videos; `positive` is the positive one of two classes.

    `clip_hits_S2` holds the share of each video's views with the label among the first 1 and 5 classes.
    """

    probabilities_SK: Floats
    labels_S: npt.NDArray[np.int64]
    positive: int = 1
    clip_hits_S2: Floats | None = None

    @property
    def classes(self) -> int:
        return self.probabilities_SK.shape[1]

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        return self.probabilities_SK.argmax(axis=1)

    @property
    def correct(self) -> Floats:
        return (self.predictions == self.labels_S).astype(np.float64)


Metric = Callable[[Scores, Floats], Floats]  # (scores, weights_BS) -> values_B; nan where it is not defined


def mean(values_S: npt.NDArray[np.generic], weights_BS: Floats) -> Floats:
    """Weighted means."""
    return weights_BS @ values_S.astype(np.float64) / weights_BS.sum(axis=1)


def accuracy(scores: Scores, weights_BS: Floats) -> Floats:
    """Share of videos whose most probable class is the label (video hit@1)."""
    return mean(scores.correct, weights_BS)


def hamming_loss(scores: Scores, weights_BS: Floats) -> Floats:
    """Share of wrong labels; with one label a video this is 1 - accuracy."""
    return 1 - accuracy(scores, weights_BS)


def hit_at_5(scores: Scores, weights_BS: Floats) -> Floats:
    """Share of videos with the label among the five most probable classes."""
    return mean(hits(scores.probabilities_SK, scores.labels_S, 5), weights_BS)


def hits(
    probabilities_NK: npt.NDArray[np.floating], labels_N: npt.NDArray[np.int64], top: int
) -> npt.NDArray[np.bool_]:
    """Whether the label is among the `top` classes with the highest probabilities."""
    own_N1 = probabilities_NK[np.arange(len(labels_N)), labels_N][:, None]
    return (probabilities_NK > own_N1).sum(axis=1) < top


def clip_hit_at_1(scores: Scores, weights_BS: Floats) -> Floats:
    """Share of views whose most probable class is the label."""
    assert scores.clip_hits_S2 is not None
    return mean(scores.clip_hits_S2[:, 0], weights_BS)


def clip_hit_at_5(scores: Scores, weights_BS: Floats) -> Floats:
    """Share of views with the label among the five most probable classes."""
    assert scores.clip_hits_S2 is not None
    return mean(scores.clip_hits_S2[:, 1], weights_BS)


def loss(scores: Scores, weights_BS: Floats) -> Floats:
    """Cross-entropy of the probabilities, in nats."""
    own_S = scores.probabilities_SK[np.arange(len(scores.labels_S)), scores.labels_S]
    return mean(-np.log(np.maximum(own_S, _SMALLEST)), weights_BS)


def calibration_error(scores: Scores, weights_BS: Floats) -> Floats:
    """Expected calibration error of the most probable class in bins of equal width (Guo et al. 2017, section 2)."""
    confidence_S = scores.probabilities_SK.max(axis=1)
    bins_S = np.clip(np.ceil(confidence_S * BINS) - 1, 0, BINS - 1).astype(int)
    gaps_SN = np.eye(BINS)[bins_S] * (scores.correct - confidence_S)[:, None]
    return np.abs(weights_BS @ gaps_SN).sum(axis=1) / weights_BS.sum(axis=1)


def balanced_accuracy(scores: Scores, weights_BS: Floats) -> Floats:
    """Mean recall of the classes that have videos."""
    counts = _Counts(scores, weights_BS)
    return _nanmean(_ratio(counts.hits_BK, counts.label_BK, empty=np.nan))


def precision(scores: Scores, weights_BS: Floats) -> Floats:
    counts = _Counts(scores, weights_BS)
    return _reduced(scores, _ratio(counts.hits_BK, counts.predicted_BK))


def recall(scores: Scores, weights_BS: Floats) -> Floats:
    counts = _Counts(scores, weights_BS)
    return _reduced(scores, _ratio(counts.hits_BK, counts.label_BK))


def f1(scores: Scores, weights_BS: Floats) -> Floats:
    counts = _Counts(scores, weights_BS)
    return _reduced(scores, _ratio(2 * counts.hits_BK, counts.label_BK + counts.predicted_BK))


def roc_auc(scores: Scores, weights_BS: Floats) -> Floats:
    """Probability that a video of the class scores above one of another class; a tie counts half."""
    return _one_against_rest(scores, weights_BS, _roc_auc)


def average_precision(scores: Scores, weights_BS: Floats) -> Floats:
    """Precision averaged over the recall gained at each score."""
    return _one_against_rest(scores, weights_BS, _average_precision)


def metrics(scores: Scores) -> Mapping[str, Metric]:
    """The metrics that these scores allow, by name."""
    found: dict[str, Metric] = {
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "hamming_loss": hamming_loss,
        "roc_auc": roc_auc,
        "average_precision": average_precision,
        "calibration_error": calibration_error,
        "loss": loss,
    }
    many = scores.classes > 5
    if many:
        found["hit_at_5"] = hit_at_5
    if scores.clip_hits_S2 is not None:
        found |= {"clip_hit_at_1": clip_hit_at_1, **({"clip_hit_at_5": clip_hit_at_5} if many else {})}
    return found


def value(metric: Metric, scores: Scores) -> float:
    """The metric of all videos, each with weight 1; nan where it is not defined."""
    return float(metric(scores, np.ones((1, len(scores.labels_S))))[0])


class _Counts:
    """Weighted numbers of videos by class: with this label, with this prediction, with both."""

    def __init__(self, scores: Scores, weights_BS: Floats) -> None:
        label_SK, predicted_SK = (np.eye(scores.classes)[ids] for ids in (scores.labels_S, scores.predictions))
        self.label_BK = weights_BS @ label_SK
        self.predicted_BK = weights_BS @ predicted_SK
        self.hits_BK = weights_BS @ (label_SK * predicted_SK)


def _ratio(above: Floats, below: Floats, *, empty: float = 0.0) -> Floats:
    return np.divide(above, below, out=np.full_like(above, empty), where=below > 0)


def _reduced(scores: Scores, values_BK: Floats) -> Floats:
    return values_BK[:, scores.positive] if scores.classes == 2 else values_BK.mean(axis=1)


def _nanmean(values_BK: Floats) -> Floats:
    defined_BK = ~np.isnan(values_BK)
    return _ratio(np.where(defined_BK, values_BK, 0).sum(axis=1), defined_BK.sum(axis=1).astype(float), empty=np.nan)


def _one_against_rest(scores: Scores, weights_BS: Floats, metric: Callable[[Floats, Floats], Floats]) -> Floats:
    """Apply `metric(positive_BT, negative_BT)` to each class: weights at each distinct score, highest first."""
    columns = [scores.positive] if scores.classes == 2 else range(scores.classes)
    values = []
    for column in columns:
        score_S, is_class_S = scores.probabilities_SK[:, column], scores.labels_S == column
        order = np.argsort(-score_S, kind="stable")
        starts_T = np.flatnonzero(np.diff(score_S[order], prepend=np.inf))
        ordered_BS = weights_BS[:, order]
        positive_BT = np.add.reduceat(ordered_BS * is_class_S[order], starts_T, axis=1)
        negative_BT = np.add.reduceat(ordered_BS * ~is_class_S[order], starts_T, axis=1)
        values.append(metric(positive_BT, negative_BT))
    return _nanmean(np.stack(values, axis=1))


def _roc_auc(positive_BT: Floats, negative_BT: Floats) -> Floats:
    above_BT = positive_BT.cumsum(axis=1) - positive_BT / 2
    pairs_B = positive_BT.sum(axis=1) * negative_BT.sum(axis=1)
    return _ratio((negative_BT * above_BT).sum(axis=1), pairs_B, empty=np.nan)


def _average_precision(positive_BT: Floats, negative_BT: Floats) -> Floats:
    hits_BT = positive_BT.cumsum(axis=1)
    precision_BT = _ratio(hits_BT, hits_BT + negative_BT.cumsum(axis=1))
    return _ratio((positive_BT * precision_BT).sum(axis=1), positive_BT.sum(axis=1), empty=np.nan)
