"""The fine-tuning loss: cross-entropy with soft targets on mixed clips; its cost and its trivial value."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from finetune.mixup import MixupConfig, cross_entropy, mix, partners, soft_labels
from finetune.models.interface import ModelInput
from finetune.stream import LabelledBatch
from videomae.data.transforms.augment import normalize
from videomae.models.flops import count_flops, training_multiply_adds
from videomae.run.metrics.meter import Workload
from videomae.run.metrics.plateau import TrivialLoss


class Objective:
    """Computes the loss of a module on a batch; moves the batch to the device, normalises its pixels and mixes clips.

    `seed` reseeds the generators of mixing, dropout and drop path at every step, so a resumed run draws the same
    numbers as an uninterrupted one.
    """

    def __init__(self, config: MixupConfig, *, input: ModelInput, classes: int, device: torch.device) -> None:
        self._config, self._input, self._classes, self._device = config, input, classes, device
        self._rng = np.random.default_rng()

    def seed(self, seed: int, step: int, rank: int) -> None:
        """Seed all random generators for a step on this rank."""
        self._rng = np.random.default_rng([seed, step, rank])
        torch.manual_seed(int(self._rng.integers(2**63)))

    def __call__(self, module: nn.Module, batch: LabelledBatch) -> Tensor:
        partner_B = (
            None if batch.weight_B is None else partners(batch.weight_B)
        )  # on the host, without a device synchronisation
        batch = batch.to(self._device)
        video_BCTHW = normalize(batch.video_BCTHW, self._input.mean, self._input.std)
        target_BK = soft_labels(batch.label_B, classes=self._classes, smoothing=self._config.smoothing)
        video_BCTHW, target_BK = mix(video_BCTHW, target_BK, self._config, self._rng, partner_B)
        return cross_entropy(module(video_BCTHW), target_BK, batch.weight_B)


def workload(model: nn.Module, *, input: ModelInput, classes: int, lr_scale: Callable[[str], float]) -> Workload:
    """The cost of a training step per clip; `lr_scale(name)` is the factor on a parameter's learning rate."""
    counted = count_flops(model, torch.empty(1, *input.shape, device="meta"))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return Workload(
        multiply_adds={"model": sum(training_multiply_adds(model, counted).values())},
        parameters=counted.parameters,
        lr_min_scale=min(map(lr_scale, trained), default=1.0),
        trivial=trivial_loss(classes),
    )


def trivial_loss(classes: int) -> TrivialLoss:
    """The cross-entropy of uniform probabilities, which smoothing and mixing of labels do not change."""
    return TrivialLoss(
        key="loss",
        value=math.log(classes),
        answer=f"guessing among {classes} classes",
        advice="if it stays there, change optimizer.lr, train longer, start from pretrained weights "
        "(model.weights=RUN/export) or weaken mixup and augmentation; and check that the labels fit the clips: "
        "videomae shards show SHARDS",
    )
