"""The reference engine: one process, plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videomae.core.errors import UserError
from videomae.engine.mixed_precision import MixedPrecision
from videomae.engine.optimizer import AdamW, decide_step
from videomae.engine.protocol import Batch, EnginePlan, StepResult, require_ema, summarize
from videomae.engine.state.sharded import EngineState, LocalShardedState
from videomae.engine.state.snapshot import Snapshot


class LocalEngine:
    """Float32 weights, under autocast in half precision."""

    def __init__(self, module: nn.Module, groups: list[dict[str, Any]], plan: EnginePlan) -> None:
        if plan.world.size > 1:
            raise UserError(f"engine.kind=local runs in one process, got {plan.world.size}; type engine.kind=deepspeed")
        self.world = plan.world
        self.settings: dict[str, Any] | None = None
        self.module = module.to(self.world.device)
        self._config = plan.optimizer
        self._precision = MixedPrecision(plan.config.precision, self.world.device)
        self._optimizer = AdamW(groups, plan.optimizer)
        self._optimizer.prepare(parameter for group in groups for parameter in group["params"])
        self._state = EngineState(
            self.module, LocalShardedState(self.module, self._optimizer, self._precision), self.world
        )

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        loss_of: Callable[[nn.Module, Batch], Tensor],
        *,
        lr: float,
        skip_threshold: float = math.inf,
    ) -> StepResult:
        losses = []
        for batch in micro_batches:
            with self._precision.autocast():
                loss = loss_of(self.module, batch)
            self._precision.scale(loss / len(micro_batches)).backward()
            losses.append(loss.detach())
        mean, highest = summarize(losses, self.world)
        self._precision.unscale(self._optimizer)
        verdict = decide_step(total_norm(self.module), mean, clip=self._config.clip, skip_threshold=skip_threshold)
        self._optimizer.set_lr(lr)
        self._optimizer.set_decision(lambda: verdict)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return StepResult(mean, highest, verdict.norm, verdict.skip)

    def sync_buffers(self) -> None:
        pass  # one rank

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        return self._state.snapshot(into)

    def save(self, folder: Path) -> None:
        self.snapshot().write(folder)

    def load(self, folder: Path) -> None:
        self._state.load(folder)

    def full_state(self, *, ema: bool = False) -> dict[str, Tensor]:
        require_ema(self._config, ema)
        return self._state.full(ema=ema)


def total_norm(module: nn.Module) -> Tensor:
    """The norm of all gradients that stand in the module."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
