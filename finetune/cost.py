"""The work of a fine-tuning step, and the loss of a classifier that has learnt nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from finetune.models.interface import ModelInput
from videomae.models.flops import count_flops, training_multiply_adds
from videomae.run.metrics.meter import Workload
from videomae.run.metrics.plateau import TrivialLoss


def workload(model: nn.Module, *, input: ModelInput, classes: int, lr_scale: Callable[[str], float]) -> Workload:
    """What a training step does with one clip; `lr_scale(name)` is the factor on a parameter's learning rate."""
    counted = count_flops(model, torch.empty(1, *input.shape, device="meta"))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return Workload(
        multiply_adds={"model": sum(training_multiply_adds(model, counted).values())},
        parameters=counted.parameters,
        lr_min_scale=min(map(lr_scale, trained), default=1.0),
        trivial=trivial_loss(classes),
    )


def trivial_loss(classes: int) -> TrivialLoss:
    """The cross-entropy of equal probabilities, with smoothed and mixed labels as without."""
    return TrivialLoss(
        key="loss",
        value=math.log(classes),
        answer=f"guessing among {classes} classes",
        advice="if it stays so, change optimizer.lr, train longer, start from pretrained weights "
        "(model.weights=RUN/export) or weaken mixup and augmentation; and look whether the labels fit the clips: "
        "videomae shards show SHARDS",
    )
