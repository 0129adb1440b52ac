"""Fit the linear probe of a frozen encoder: features once, without augmentation, then a convex problem.

Each view of a training video, as in the evaluation, is one sample. The features are standardized, and L-BFGS minimizes
cross-entropy plus `penalty` times the squared weights, so there is no learning rate and no number of epochs to choose.

Shapes: S samples, F features, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import FinetuneConfig
from finetune.models.probes import Probe, ProbeConfig, StatisticsPool
from finetune.stream import EvaluationViews, evaluation_batches, split
from videomae.core.distributed import World
from videomae.data.transforms.augment import normalize

_ITERATIONS = 500


@dataclass(frozen=True)
class ProbeFit:
    """The result of a fit, for the run's metrics."""

    loss: float  # cross-entropy on the training samples
    samples: int
    seconds: float


def fit_linear_probe(
    model: nn.Module,
    config: FinetuneConfig,
    world: World,
    *,
    samples: Sequence[int] | None,
    beat: Callable[[str], object],
) -> ProbeFit | None:
    """Fit `model` to the train split, or to `samples` of it, if it is a linear probe; else return None.

    All ranks must call this function; each computes the features of its share. `beat` is called at every batch.
    """
    if not (isinstance(model, Probe) and isinstance(model.pool, StatisticsPool)):
        return None
    assert isinstance(config.model, ProbeConfig)
    began = time.perf_counter()
    model.to(world.device).eval()
    shares = world.all_gather_object(_features(model, config, world, samples, beat))
    features_SF = torch.cat([share[0] for share in shares]).double()
    labels_S = torch.cat([share[1] for share in shares])
    norm = model.norm
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(features_SF.mean(0))
    norm.running_var.copy_(features_SF.var(0, correction=0))
    standard_SF = (features_SF - features_SF.mean(0)) / (features_SF.var(0, correction=0) + norm.eps).sqrt()
    classes, penalty = model.head.out_features, config.model.penalty
    fitted = world.run_on_main(lambda: fit(standard_SF, labels_S, classes, penalty))
    model.head.load_state_dict({"weight": fitted[0], "bias": fitted[1]})
    loss = functional.cross_entropy(standard_SF @ fitted[0].T + fitted[1], labels_S).item()
    return ProbeFit(loss, len(labels_S), round(time.perf_counter() - began, 3))


def fit(features_SF: Tensor, labels_S: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Return weights_KF and bias_K of the penalized multinomial logistic regression, by L-BFGS in float64."""
    weight_KF = torch.zeros(classes, features_SF.shape[1], dtype=torch.float64, requires_grad=True)
    bias_K = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_KF, bias_K], max_iter=_ITERATIONS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits_SK = functional.linear(features_SF, weight_KF, bias_K)
        loss = functional.cross_entropy(logits_SK, labels_S) + penalty * weight_KF.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight_KF.detach(), bias_K.detach()


@torch.no_grad()
def _features(
    model: Probe, config: FinetuneConfig, world: World, samples: Sequence[int] | None, beat: Callable[[str], object]
) -> tuple[Tensor, Tensor]:
    """Return features_SF and labels_S of this rank's share, on the host."""
    features, labels = [], []
    views = EvaluationViews(config.evaluation, config.model.input)
    batches = evaluation_batches(split(config, "train"), views, world, loader=config.loader, samples=samples)
    for number, batch in enumerate(batches, start=1):
        beat(f"batch {number} of the probe's features")
        labels.append(batch.label_B.clone())
        video_BCTHW = batch.to(world.device).video_BCTHW
        pixels_BCTHW = normalize(video_BCTHW, config.model.input.mean, config.model.input.std)
        features.append(model.pool(model.encoder(pixels_BCTHW)).float().cpu())
    if not features:  # fewer samples than ranks
        return torch.zeros(0, model.head.in_features), torch.zeros(0, dtype=torch.int64)
    return torch.cat(features), torch.cat(labels)
