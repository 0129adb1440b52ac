"""AdamW and its parameter groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from videomae.config import configclass


@configclass
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019). The peak rate is `lr` x global batch / 256 (linear scaling)."""

    lr: float = 1.5e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05  # of matrices; biases, norms and other vectors have none
    clip: float | None = None  # largest gradient norm; None does not clip

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive, or null for none, got {self.clip}")

    def peak(self, batch: int) -> float:
        """The rate after warm-up for a global batch of `batch` samples."""
        return self.lr * batch / 256


def parameter_groups(
    module: nn.Module, *, weight_decay: float, rate_factor: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
    """Group trainable parameters by weight decay and by `rate_factor(name)`.

    Each group has `params`, `weight_decay` and `rate_factor`, the factor on the step's rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if parameter.squeeze().ndim > 1 else 0.0
            groups.setdefault((decay, rate_factor(name)), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "rate_factor": factor}
        for (decay, factor), parameters in groups.items()
    ]


def adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, one kernel for all tensors; the engine sets the rate at every step."""
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=1e-8, fused=True)
