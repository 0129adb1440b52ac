"""AdamW, its parameter groups, the moving average of the weights, and steps that may turn out to change nothing.

Whether a step counts is known on the device only, from values reduced over all ranks; waiting for it on the host would
stall the device. So the verdict goes into AdamW's kernel, which then leaves weights, moments and step counts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videomae.core.config import configclass
from videomae.core.errors import UserError


@configclass
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019). The peak rate is `lr` x global batch / 256 (linear scaling)."""

    lr: float = 1.5e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05  # of matrices; biases, norms and other vectors have none
    clip: float | None = None  # largest gradient norm; None does not clip
    ema: float | None = None  # what a moving average of the weights keeps of itself at a step, such as 0.9999

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError(f"lr must be positive, got {self.lr}")
        if self.clip is not None and self.clip <= 0:
            raise UserError(f"clip must be positive, or null for none, got {self.clip}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(f"ema must lie in (0, 1), such as 0.9999, or null for none, got {self.ema}")

    def peak_lr(self, batch: int) -> float:
        """The rate after warm-up for a global batch of `batch` samples."""
        return self.lr * batch / 256


def parameter_groups(
    module: nn.Module, *, weight_decay: float, lr_scale: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
    """Group trainable parameters by weight decay and by `lr_scale(name)`.

    Each group has `params`, `weight_decay` and `lr_scale`, the factor on the step's rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if parameter.squeeze().ndim > 1 else 0.0
            groups.setdefault((decay, lr_scale(name)), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": factor}
        for (decay, factor), parameters in groups.items()
    ]


@dataclass(frozen=True)
class StepDecision:
    """What becomes of a step; scalars on the device, the same on every rank."""

    norm: Tensor  # of the gradients over all ranks and parameters, before clipping
    skip: Tensor  # float32: 1 changes nothing, 0 goes ahead
    clip_coef: Tensor | None  # float32, of all gradients: clips them to the largest norm


def decide_step(norm: Tensor, loss: Tensor, *, clip: float | None, skip_threshold: float) -> StepDecision:
    """Skip a step whose `loss` or gradient `norm` is not finite, or whose norm is above `ceiling`; else clip it."""
    norm = norm.detach().float()
    healthy = torch.isfinite(loss) & torch.isfinite(norm) & (norm <= skip_threshold)
    divisor = None if clip is None else ((norm + 1e-6) / clip).clamp(min=1.0)
    return StepDecision(norm, 1.0 - healthy.float(), divisor)


class AdamW(torch.optim.AdamW):
    """Fused AdamW whose step asks for a verdict and, with `config.ema`, averages the weights.

    An engine calls `expect` before each update. `step` may then be called several times (ZeRO does, a partition at a
    time): all get the one verdict, which `verdict` shows afterwards, or None if no step was reached.
    """

    def __init__(self, groups: list[dict[str, Any]], config: OptimizerConfig) -> None:
        super().__init__(groups, lr=0.0, betas=config.betas, eps=1e-8, fused=True)
        self.decision: StepDecision | None = None
        self._decide: Callable[[], StepDecision] | None = None
        self._ema = config.ema

    @property
    def state_keys(self) -> tuple[str, ...]:
        """Names of what is kept of each value beside itself."""
        return ("exp_avg", "exp_avg_sq") if self._ema is None else ("exp_avg", "exp_avg_sq", "ema")

    def prepare(self, tensors: Iterable[Tensor]) -> None:
        """Give each of the optimized `tensors` its state before the first step, the average starting at its value."""
        for tensor in tensors:
            state = {key: torch.zeros_like(tensor, requires_grad=False) for key in self.state_keys}
            if self._ema is not None:
                state["ema"].copy_(tensor.detach())
            self.state[tensor] = {"step": torch.zeros((), dtype=torch.float32, device=tensor.device), **state}

    def set_decision(self, decide: Callable[[], StepDecision]) -> None:
        """The next update's verdict is what `decide` gives when its first step is reached."""
        self.decision, self._decide = None, decide

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None
        assert self._decide is not None, "expect() comes before every update"
        if self.decision is None:
            self.decision = self._decide()
        self.found_inf, self.grad_scale = self.decision.skip, self.decision.clip_coef
        super().step()
        if self._ema is not None:
            self._average((1 - self.decision.skip) * (1 - self._ema))

    def _average(self, weight: Tensor) -> None:
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    self.state[tensor]["ema"].lerp_(tensor, weight)

    def set_lr(self, lr: float) -> None:
        """Give every parameter group `rate` times its own factor."""
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]
