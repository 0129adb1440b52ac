"""One optimizer step, wherever it runs: the Engine protocol, and the one-process reference in plain PyTorch.

An engine owns the module, the optimizer and how gradients travel; it knows nothing of videos, masks or epochs. The loss
comes in as a function of the module and a micro-batch. `DeepSpeedEngine` (its own file) must match `LocalEngine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from videomae.config import configclass
from videomae.distributed import World
from videomae.optimizer import OptimizerConfig, adamw

Batch = TypeVar("Batch")
STATE_FILE = "engine.pt"


@configclass
class EngineConfig:
    """Which engine, in which precision, and how memory is spent."""

    kind: Literal["local", "deepspeed"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 0  # the smallest that fits is the fastest
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batch: int | None = None  # clips a forward pass on one device; None takes the whole share of the batch

    def split(self, *, batch: int, world_size: int) -> tuple[int, int]:
        """How a global `batch` is cut: (clips a micro-batch, micro-batches a step on each rank).

        Raises:
            ValueError: the batch cannot be cut into equal micro-batches on `world_size` ranks.
        """
        if batch % world_size:
            raise ValueError(f"batch={batch} must be a multiple of the {world_size} processes")
        share = batch // world_size
        micro_batch = self.micro_batch or share
        if share % micro_batch:
            raise ValueError(
                f"engine.micro_batch={micro_batch} must divide the {share} clips that each of {world_size} processes "
                f"gets of batch={batch}"
            )
        return micro_batch, share // micro_batch


@dataclass(frozen=True)
class Update:
    """What one optimizer step saw: the mean loss over micro-batches and ranks, and the norm before clipping."""

    loss: Tensor
    gradient_norm: Tensor


class Engine(Protocol):
    """Runs optimizer steps of one module on all ranks, each over the same number of micro-batches."""

    module: nn.Module
    world: World
    settings: dict[str, Any] | None  # of the library beneath, where there is one, for the record

    def update(
        self, micro_batches: Sequence[Batch], loss_of: Callable[[nn.Module, Batch], Tensor], *, rate: float
    ) -> Update:
        """Backward over all micro-batches, then one step at learning rate `rate` x each group's factor."""
        ...

    def agree(self) -> None:
        """Make what is not trained, such as the running statistics of batch norms, the same on all ranks: their mean.

        Called by all ranks before the module is evaluated, saved or given away.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write module and optimizer state; called by all ranks with the same folder."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote; called by all ranks.

        Raises:
            ValueError: the state is missing or does not fit this module.
        """
        ...

    def full_state(self) -> dict[str, Tensor]:
        """The whole module in float32 on the host, complete on every rank; called by all ranks."""
        ...


@dataclass(frozen=True)
class EnginePlan:
    """All that an engine needs beside the module and its parameter groups."""

    config: EngineConfig
    optimizer: OptimizerConfig
    world: World
    micro_batches: int = 1  # forward passes a step on each rank


def build_engine(module: nn.Module, groups: list[dict[str, Any]], plan: EnginePlan) -> Engine:
    """The engine that `plan.config.kind` names, with AdamW over `groups`; `module` is moved to the rank's device."""
    if plan.config.kind == "local":
        return LocalEngine(module, groups, plan)
    from videomae.deepspeed_engine import DeepSpeedEngine  # only runs that use DeepSpeed need it installed

    return DeepSpeedEngine(module, groups, plan)


class LocalEngine:
    """The reference: one process, plain PyTorch."""

    def __init__(self, module: nn.Module, groups: list[dict[str, Any]], plan: EnginePlan) -> None:
        if plan.world.size > 1:
            raise ValueError(
                f"engine.kind=local runs in one process, got {plan.world.size}; type engine.kind=deepspeed"
            )
        self.world = plan.world
        self.settings: dict[str, Any] | None = None
        self.module = module.to(self.world.device)
        self._clip = plan.optimizer.clip
        self._autocast = plan.config.precision == "bf16"
        self._optimizer = adamw(groups, plan.optimizer)

    def update(
        self, micro_batches: Sequence[Batch], loss_of: Callable[[nn.Module, Batch], Tensor], *, rate: float
    ) -> Update:
        losses = []
        for batch in micro_batches:
            with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self._autocast):
                loss = loss_of(self.module, batch)
            (loss / len(micro_batches)).backward()
            losses.append(loss.detach())
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip or float("inf"))
        set_rate(self._optimizer, rate)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return Update(torch.stack(losses).mean(), norm)

    def agree(self) -> None:
        pass  # one rank

    def save(self, folder: Path) -> None:
        torch.save({"module": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        if not (folder / STATE_FILE).is_file():
            raise ValueError(f"{folder} holds no {STATE_FILE}: it was not written by engine.kind=local")
        state = torch.load(folder / STATE_FILE, map_location=self.world.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])

    def full_state(self) -> dict[str, Tensor]:
        return {name: value.detach().float().cpu() for name, value in self.module.state_dict().items()}


def set_rate(optimizer: Any, rate: float) -> None:
    """Give every parameter group `rate` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
