"""Fusion of several models' scores: their average, and a linear SVM on them.

The two-stream paper fuses by both (Simonyan and Zisserman 2014, section 6); averaging is also the course's model
averaging, of any set of runs.

Shapes: M models, S videos, K classes, F = M * K features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from videomae.core.errors import UserError


class FusionError(UserError):
    """Scores that cannot be fused."""


def average(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """The models' mean probabilities (S, K).

    Raises:
        FusionError: no models, or models of other videos or classes.
    """
    return _stacked(probabilities).mean(axis=0)


def features(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """What an SVM sees of the models' probabilities: their logarithms side by side, (S, F)."""
    logarithms_MSK = np.log(np.maximum(_stacked(probabilities), 1e-6))
    return np.concatenate(list(logarithms_MSK), axis=1)


@dataclass(frozen=True)
class LinearSvm:
    """One against the rest with the squared hinge (LIBLINEAR's L2-loss SVM); features are standardised first."""

    weights_KF: np.ndarray
    bias_K: np.ndarray
    mean_F: np.ndarray
    deviation_F: np.ndarray

    @classmethod
    def fit(cls, features_SF: np.ndarray, labels_S: np.ndarray, *, classes: int, cost: float = 1.0) -> LinearSvm:
        """Minimise |w|^2 / 2 + cost * sum of max(0, 1 - y (w x + b))^2 for every class; convex, so no seed."""
        mean_F, deviation_F = features_SF.mean(axis=0), features_SF.std(axis=0) + 1e-9
        inputs_SF = torch.from_numpy((features_SF - mean_F) / deviation_F).double()
        signs_SK = functional.one_hot(torch.from_numpy(labels_S).long(), classes).double() * 2 - 1
        weights_KF = torch.zeros(classes, inputs_SF.shape[1], dtype=torch.float64, requires_grad=True)
        bias_K = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS(
            [weights_KF, bias_K], max_iter=500, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def loss() -> torch.Tensor:
            solver.zero_grad()
            margins_SK = signs_SK * (inputs_SF @ weights_KF.T + bias_K)
            value = weights_KF.square().sum() / 2 + cost * (1 - margins_SK).clamp(min=0).square().sum()
            value.backward()
            return value

        solver.step(loss)
        return cls(weights_KF.detach().numpy(), bias_K.detach().numpy(), mean_F, deviation_F)

    def scores(self, features_SF: np.ndarray) -> np.ndarray:
        """Signed distances (S, K), scaled: the largest decides."""
        return (features_SF - self.mean_F) / self.deviation_F @ self.weights_KF.T + self.bias_K


def _stacked(probabilities: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {part.shape for part in probabilities}
    if len(shapes) != 1:
        raise FusionError(
            f"models can be fused on the same videos and classes only, got scores of shapes {sorted(shapes)}; "
            "give runs on the same shards"
        )
    return np.stack(list(probabilities)).astype(np.float64)
