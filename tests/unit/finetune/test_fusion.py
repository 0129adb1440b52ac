"""Fusion of scores by a linear SVM."""

import numpy as np

from finetune.ensemble import features, fit_svm, svm_probabilities


def test_the_svm_trusts_the_model_that_is_right():
    rng = np.random.default_rng(0)
    labels_S = rng.integers(3, size=200)
    right = np.eye(3)[labels_S] * 0.5 + 0.5 / 3
    wrong = rng.dirichlet(np.full(3, 0.3), size=200)
    seen_SF = features(np.stack([wrong, right]))
    svm = fit_svm(seen_SF[:100], labels_S[:100])
    assert (svm_probabilities(svm, seen_SF[100:]).argmax(1) == labels_S[100:]).all()
    weights_KF = svm[-1].coef_
    assert np.abs(weights_KF[:, 3:]).sum() > 3 * np.abs(weights_KF[:, :3]).sum()


def test_two_classes_give_probabilities_of_both():
    labels_S = np.array([0, 1] * 10)
    seen_SF = features(np.eye(2)[labels_S][None] * 0.8 + 0.1)
    probabilities_SK = svm_probabilities(fit_svm(seen_SF, labels_S), seen_SF)
    assert probabilities_SK.shape == (20, 2)
    assert np.allclose(probabilities_SK.sum(axis=1), 1)
    assert (probabilities_SK.argmax(axis=1) == labels_S).all()
