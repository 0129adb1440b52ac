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


def fuse(runs: Sequence[FinishedRun], fusion: str) -> Evaluation:
    """Evaluate the runs together on the val split.

    Raises:
        UserError: there are fewer than two runs, or they differ in classes or videos.
    """
    if len(runs) < 2:
        raise UserError(f"a fusion needs at least 2 runs, got {len(runs)}")
    classes = {run.classifier.classes for run in runs}
    if len(classes) > 1:
        raise UserError(f"the runs have different classes: {sorted(classes)}; give runs on the same data")
    val_MSK, labels_S = _scores(runs, "val")
    fused_SK = val_MSK.mean(axis=0)
    if fusion == "svm":
        train_MSK, seen_S = _scores(runs, "train")
        fused_SK = svm_probabilities(fit_svm(features(train_MSK), seen_S), features(val_MSK))
    return runs[0].evaluator("val").summary(fused_SK, labels_S)


def _scores(runs: Sequence[FinishedRun], split: str) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities (M, S, K) of all runs and the labels (S,)."""
    scored = [run.probabilities(split) for run in runs]
    if any(not np.array_equal(scored[0][1], labels_S) for _, labels_S in scored):
        raise UserError(f"the runs' {split} splits hold different videos; give runs on the same shards")
    return np.stack([probabilities_SK for probabilities_SK, _ in scored]).astype(np.float64), scored[0][1]


def features(probabilities_MSK: np.ndarray) -> np.ndarray:
    """The input of the SVM, (S, F): the log-probabilities of all models, concatenated."""
    return np.concatenate(list(np.log(np.maximum(probabilities_MSK, 1e-6))), axis=1)


def fit_svm(features_SF: np.ndarray, labels_S: np.ndarray) -> Pipeline:
    """Fit a one-versus-rest linear SVM (LIBLINEAR, squared hinge, C = 1) on standardised features."""
    return make_pipeline(StandardScaler(), LinearSVC(dual="auto", random_state=0)).fit(features_SF, labels_S)


def svm_probabilities(svm: Pipeline, features_SF: np.ndarray) -> np.ndarray:
    """Softmax of the signed distances to the SVM's hyperplanes, (S, K); the largest decides."""
    distances = svm.decision_function(features_SF)
    return softmax(distances if distances.ndim == 2 else np.stack([-distances, distances], axis=1), axis=1)
