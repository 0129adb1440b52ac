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
from videomae.engine.muon import build_optimizer
from videomae.engine.optimizer import AdamW, decide_step
from videomae.engine.protocol import Batch, EnginePlan, StepResult, reduce_losses, require_ema
from videomae.engine.state.rank_file import MASTER
from videomae.engine.state.sharded import EngineState
from videomae.engine.state.snapshot import ParamShard, Snapshot


class LocalEngine:
    """Float32 weights; autocast in half precision."""

    def __init__(self, module: nn.Module, groups: list[dict[str, Any]], plan: EnginePlan) -> None:
        if plan.world.size > 1:
            raise UserError(f"engine.kind=local runs in one process, got {plan.world.size}; type engine.kind=deepspeed")
        self.world = plan.world
        self.settings: dict[str, Any] | None = None
        self.module = module.to(self.world.device)
        self._config = plan.optimizer
        self._precision = MixedPrecision(plan.config.precision, self.world.device)
        self._optimizer = build_optimizer(groups, plan.optimizer, plan.world)
        self._optimizer.init_state(group["params"] for group in groups)
        sharded = ReplicatedParams(self.module, self._optimizer, self._precision)
        self._state = EngineState(self.module, sharded, self.world)

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
        mean, highest = reduce_losses(losses, self.world)
        self._precision.unscale(self._optimizer)
        norm = grad_norm(self.module)
        decision = decide_step(norm, mean, clip=self._config.clip, skip_threshold=skip_threshold)
        self._optimizer.set_lr(lr)
        self._optimizer.set_decision(lambda: decision)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return StepResult(mean, highest, decision.norm, decision.skip)

    def sync_buffers(self) -> None:
        pass  # one rank

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        return self._state.snapshot(into)

    def load(self, folder: Path) -> None:
        self._state.load(folder)

    def full_state(self, *, ema: bool = False) -> dict[str, Tensor]:
        require_ema(self._config, ema)
        return self._state.full(ema=ema)


class ReplicatedParams:
    """The ShardedState of engines that hold whole float32 parameters on every rank, as AdamW optimizes them."""

    def __init__(self, module: nn.Module, optimizer: AdamW, precision: MixedPrecision) -> None:
        self._module, self._optimizer, self._precision = module, optimizer, precision

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in self._module.named_parameters()}

    def sharded(self) -> Sequence[ParamShard]:
        return []

    def replicated(self) -> Sequence[ParamShard]:
        shards = []
        for name, parameter in self._module.named_parameters():
            state = self._optimizer.state.get(parameter, {})
            values = {key: state[key].view(-1) for key in self._optimizer.state_keys if key in state}
            values[MASTER] = parameter.detach().view(-1)
            shards.append(ParamShard(name, tuple(parameter.shape), 0, values, state.get("step")))
        return shards

    def sync_model_weights(self) -> None:
        pass  # the model's weights are the restored tensors

    def scaler(self) -> Tensor | None:
        return self._precision.state()

    def load_scaler(self, scaler: Tensor | None) -> None:
        self._precision.load(scaler)


def grad_norm(module: nn.Module) -> Tensor:
    """Return the total norm of the gradients in `module`."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
