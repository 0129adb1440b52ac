"""Fusion of scores: the average, and an SVM that is really at its optimum."""

import numpy as np
import pytest

from finetune.fusion import FusionError, LinearSvm, average, features


def test_the_average_is_the_mean_of_probabilities():
    one, other = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.3, 0.7], [0.4, 0.6]])
    assert np.allclose(average([one, other]), [[0.6, 0.4], [0.3, 0.7]])
    with pytest.raises(FusionError, match="same videos and classes"):
        average([one, other[:1]])


def test_the_svm_trusts_the_model_that_is_right():
    rng = np.random.default_rng(0)
    labels_S = rng.integers(3, size=200)
    right = np.eye(3)[labels_S] * 0.5 + 0.5 / 3
    wrong = rng.dirichlet(np.full(3, 0.3), size=200)
    seen_SF = features([wrong, right])
    svm = LinearSvm.fit(seen_SF[:100], labels_S[:100], classes=3)
    assert (svm.scores(seen_SF[100:]).argmax(1) == labels_S[100:]).all()
    assert np.abs(svm.weights_KF[:, 3:]).sum() > 3 * np.abs(svm.weights_KF[:, :3]).sum()


def test_the_svm_is_at_the_optimum_of_its_convex_loss():
    rng = np.random.default_rng(1)
    seen_SF, labels_S = rng.normal(size=(60, 4)), rng.integers(2, size=60)
    svm = LinearSvm.fit(seen_SF, labels_S, classes=2, cost=0.5)
    inputs_SF = (seen_SF - svm.mean_F) / svm.deviation_F
    for row, sign_S in ((0, 1 - 2 * labels_S), (1, 2 * labels_S - 1)):
        gap_S = np.maximum(0, 1 - sign_S * (inputs_SF @ svm.weights_KF[row] + svm.bias_K[row]))
        gradient_F = svm.weights_KF[row] - 2 * 0.5 * (gap_S * sign_S) @ inputs_SF
        assert np.abs(gradient_F).max() < 1e-5
        assert abs((gap_S * sign_S).sum()) < 1e-5
