"""AdamW with parameter groups, an EMA of the weights, and steps that are skipped on the device.

Whether to skip a step follows from values reduced over all ranks, which are on the device; waiting for them on the host
would stall it. So the decision is passed to AdamW's fused kernel, which then changes no weights, moments or counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from videomae.core.config import configclass
from videomae.core.errors import UserError

_BLOCK = re.compile(r"(?:^|\.)(?:\w+_)?blocks\.\d+\.")


@configclass
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019), or Muon on the matrices of transformer blocks and AdamW on the rest.

    The peak learning rate is `lr` x global batch / 256 (linear scaling), with Muon for both.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: PositiveFloat = 1.5e-4
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW; the momentum of Muon is 0.95
    weight_decay: float = 0.05  # not applied to biases, norms and other vectors
    clip: PositiveFloat | None = None  # maximum gradient norm; None does not clip
    ema: float | None = Field(None, gt=0, lt=1)  # decay of the weights' EMA per step, such as 0.9999; None keeps no EMA

    def peak_lr(self, batch: int) -> float:
        """Return the learning rate after warm-up for a global batch of `batch` samples."""
        return self.lr * batch / 256


def parameter_groups(
    module: nn.Module,
    *,
    weight_decay: float,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
    kind: Literal["adamw", "muon"] = "adamw",
) -> list[dict[str, Any]]:
    """Group trainable parameters by weight decay, by `lr_scale(name)` and, for Muon, by whether it optimizes them.

    Each group has `params`, `weight_decay` and `lr_scale`, the factor on the step's learning rate. A group for Muon
    also has `matrices`: for each parameter in order, its name and its shape.

    Raises:
        UserError: `kind` is muon and the module has no transformer blocks that are trained.
    """
    groups: dict[tuple[float, float, bool], dict[str, nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if parameter.squeeze().ndim > 1 else 0.0
            muon = kind == "muon" and parameter.ndim == 2 and _BLOCK.search(name) is not None
            groups.setdefault((decay, lr_scale(name), muon), {})[name] = parameter
    if kind == "muon" and not any(muon for _, _, muon in groups):
        raise UserError(
            f"optimizer.kind=muon needs a model with transformer blocks to train, {type(module).__name__} has none; "
            "type optimizer.kind=adamw"
        )
    return [
        {"params": list(named.values()), "weight_decay": decay, "lr_scale": scale}
        | ({"matrices": {name: tuple(value.shape) for name, value in named.items()}} if muon else {})
        for (decay, scale, muon), named in groups.items()
    ]


@dataclass(frozen=True)
class StepDecision:
    """Whether to skip or clip a step; scalars on the device, the same on every rank."""

    norm: Tensor  # of the gradients, over all ranks and parameters, before clipping
    skip: Tensor  # float32: 1 skips the step, 0 takes it
    clip_coef: Tensor | None  # float32: all gradients are divided by it; None does not clip


def decide_step(norm: Tensor, loss: Tensor, *, clip: float | None, skip_threshold: float) -> StepDecision:
    """Skip if `loss` or gradient `norm` is not finite, or the norm exceeds `skip_threshold`; else clip to `clip`."""
    norm = norm.detach().float()
    healthy = torch.isfinite(loss) & torch.isfinite(norm) & (norm <= skip_threshold)
    clip_coef = None if clip is None else ((norm + 1e-6) / clip).clamp(min=1.0)
    return StepDecision(norm, 1.0 - healthy.float(), clip_coef)


class AdamW(torch.optim.AdamW):
    """Fused AdamW whose step follows a StepDecision and, with `config.ema`, updates an EMA of the weights.

    An engine calls `set_decision` before each update. ZeRO may then call `step` several times, once per partition: all
    calls use one decision, which `decision` holds afterwards, or None if `step` was not called.
    """

    def __init__(self, groups: list[dict[str, Any]], config: OptimizerConfig) -> None:
        super().__init__(groups, lr=0.0, betas=config.betas, eps=1e-8, fused=True)
        self.decision: StepDecision | None = None
        self._decide: Callable[[], StepDecision] | None = None
        self._ema = config.ema

    @property
    def state_keys(self) -> tuple[str, ...]:
        """Names of the per-value state tensors that a parameter can have."""
        return ("exp_avg", "exp_avg_sq") if self._ema is None else ("exp_avg", "exp_avg_sq", "ema")

    def init_state(self, tensors: Iterable[Iterable[Tensor]]) -> None:
        """Allocate state before the first step, for the optimized `tensors` of each group; EMAs start at their values.

        Muon has no second moment.
        """
        for group, members in zip(self.param_groups, tensors, strict=True):
            keys = [key for key in self.state_keys if not (key == "exp_avg_sq" and "matrices" in group)]
            for tensor in members:
                state = {key: torch.zeros_like(tensor, requires_grad=False) for key in keys}
                if self._ema is not None:
                    state["ema"].copy_(tensor.detach())
                self.state[tensor] = {"step": torch.zeros((), dtype=torch.float32, device=tensor.device), **state}

    def set_decision(self, decide: Callable[[], StepDecision]) -> None:
        """Take the next update's decision from `decide`, called at the first `step` of that update."""
        self.decision, self._decide = None, decide

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None
        assert self._decide is not None, "call set_decision() before every update"
        if self.decision is None:
            self.decision = self._decide()
        self.found_inf, self.grad_scale = self.decision.skip, self.decision.clip_coef
        self._update()
        if self._ema is not None:
            self._update_ema((1 - self.decision.skip) * (1 - self._ema))

    def _update(self) -> None:
        super().step()

    def _update_ema(self, weight: Tensor) -> None:
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    self.state[tensor]["ema"].lerp_(tensor, weight)

    def set_lr(self, lr: float) -> None:
        """Set every parameter group's learning rate to `lr` times its `lr_scale`."""
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]
