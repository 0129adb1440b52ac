"""Evaluate several finished runs as one classifier: `videomae ensemble RUN RUN`.

Each run is evaluated on the val split with its own input config (frames, size, stride). `average` takes the mean of the
probabilities, the course's model averaging; `svm` fits a linear SVM to the runs' scores on the train split. Two-stream
networks use both (Simonyan and Zisserman 2014, section 6).

Shapes: M models, S videos, K classes, F = M * K features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from finetune.evaluate import FinishedRun
from finetune.evaluation import Evaluation
from videomae.core.errors import UserError


class FusionError(UserError):
    """These runs, or the scores of these models, cannot be fused."""


def fuse(runs: Sequence[FinishedRun], fusion: str) -> Evaluation:
    """Evaluate the runs together on the val split.

    Raises:
        FusionError: there are fewer than two runs, or they differ in classes or videos.
    """
    if len(runs) < 2:
        raise FusionError(f"a fusion needs at least 2 runs, got {len(runs)}")
    classes = {run.classifier.classes for run in runs}
    if len(classes) > 1:
        raise FusionError(f"the runs have different classes: {sorted(classes)}; give runs on the same data")
    scored = [run.probabilities("val") for run in runs]
    labels_S = scored[0][1]
    if any(not np.array_equal(labels_S, labels) for _, labels in scored):
        raise FusionError("the runs' val splits hold different videos; give runs on the same shards")
    val = [probabilities for probabilities, _ in scored]
    fused_SK = average(val)
    if fusion == "svm":
        train = [run.probabilities("train") for run in runs]
        seen_SF = features([probabilities for probabilities, _ in train])
        fused_SK = svm_probabilities(fit_svm(seen_SF, train[0][1]), features(val))
    return runs[0].evaluator("val").summary(fused_SK, labels_S)


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
    return softmax(distances if distances.ndim == 2 else np.stack([-distances, distances], axis=1), axis=1)


def _stacked(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {model_SK.shape for model_SK in probabilities}
    if len(shapes) != 1:
        raise FusionError(
            f"models can be fused on the same videos and classes only, got scores of shapes {sorted(shapes)}; "
            "give runs on the same shards"
        )
    return np.stack(list(probabilities)).astype(np.float64)
