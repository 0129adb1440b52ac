"""Fusion of the scores of several models: their average, and a linear SVM on them.

The two-stream paper uses both (Simonyan and Zisserman 2014, section 6); averaging is also the course's model averaging.

Shapes: M models, S videos, K classes, F = M * K features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from videomae.core.errors import UserError


class FusionError(UserError):
    """The scores of these models cannot be fused."""


def average(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """The models' mean probabilities (S, K).

    Raises:
        FusionError: no models, or models of other videos or classes.
    """
    return _stacked(probabilities).mean(axis=0)


def features(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """The input of the SVM, (S, F): the log-probabilities of all models, concatenated."""
    logarithms_MSK = np.log(np.maximum(_stacked(probabilities), 1e-6))
    return np.concatenate(list(logarithms_MSK), axis=1)


def fit_svm(features_SF: np.ndarray, labels_S: np.ndarray) -> Pipeline:
    """Fit a one-versus-rest linear SVM (LIBLINEAR, squared hinge, C = 1) on standardised features."""
    return make_pipeline(StandardScaler(), LinearSVC(dual="auto", random_state=0)).fit(features_SF, labels_S)


def svm_probabilities(svm: Pipeline, features_SF: np.ndarray) -> np.ndarray:
    """Softmax of the signed distances to the SVM's hyperplanes, (S, K); the largest decides."""
    distances = svm.decision_function(features_SF)
    distances_SK = distances if distances.ndim == 2 else np.stack([-distances, distances], axis=1)
    odds_SK = np.exp(distances_SK - distances_SK.max(axis=1, keepdims=True))
    return odds_SK / odds_SK.sum(axis=1, keepdims=True)


def _stacked(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {model_SK.shape for model_SK in probabilities}
    if len(shapes) != 1:
        raise FusionError(
            f"models can be fused on the same videos and classes only, got scores of shapes {sorted(shapes)}; "
            "give runs on the same shards"
        )
    return np.stack(list(probabilities)).astype(np.float64)
