"""One optimizer step, wherever it runs: the Engine protocol, its config, and what an update saw.

An engine owns the module, the optimizer and how gradients travel; it knows nothing of videos, masks or epochs. The loss
comes in as a function of the module and a micro-batch. `LocalEngine` is the reference in plain PyTorch, which
`DeepSpeedEngine` must match; each has its own file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from videomae.core.config import configclass
from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.engine.blocks import prepare_blocks
from videomae.engine.determinism import make_deterministic
from videomae.engine.optimizer import OptimizerConfig
from videomae.engine.state.snapshot import Snapshot

Batch = TypeVar("Batch")


@configclass
class EngineConfig:
    """Which engine, in which precision, and how memory is spent."""

    kind: Literal["local", "deepspeed"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 0  # the smallest that fits is the fastest
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # fp16, with a dynamic loss scale, for GPUs without bf16
    micro_batch: int | None = None  # clips a forward pass on one device; None takes the whole share of the batch
    # Gradients of several micro-batches are added up in float32 at stage 0, in `precision` from stage 1 on.
    activation_checkpointing: bool = False  # keep each block's input only and compute the rest again: less memory
    compile: bool = False  # torch.compile, a block at a time
    deterministic: bool = False  # the same bits at each run on CUDA too, more slowly; see determinism.py

    def __post_init__(self) -> None:
        if self.compile and self.zero_stage == 3 and self.kind == "deepspeed":
            raise UserError(
                "engine.compile=true gains nothing with engine.zero_stage=3, which gathers weights in each layer and "
                "breaks each block into pieces; type engine.compile=false, or engine.zero_stage=2 or less"
            )

    def split(self, *, batch: int, world_size: int) -> tuple[int, int]:
        """How a global `batch` is cut: (clips a micro-batch, micro-batches a step on each rank).

        Raises:
            UserError: the batch cannot be cut into equal micro-batches on `world_size` ranks.
        """
        if batch % world_size:
            raise UserError(f"batch={batch} must be a multiple of the {world_size} processes")
        share = batch // world_size
        micro_batch = self.micro_batch or share
        if share % micro_batch:
            raise UserError(
                f"engine.micro_batch={micro_batch} must divide the {share} clips that each of {world_size} processes "
                f"gets of batch={batch}"
            )
        return micro_batch, share // micro_batch


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step saw: scalars on the device, the same on every rank."""

    loss: Tensor  # mean over micro-batches and ranks
    loss_max: Tensor  # of the ranks' own means, those of weighed clips where a batch is filled up
    gradient_norm: Tensor  # over all ranks and parameters, before clipping; not finite where a gradient was not
    skipped: Tensor  # 1 if the step changed nothing, else 0


class Engine(Protocol):
    """Runs optimizer steps of one module on all ranks, each over the same number of micro-batches."""

    module: nn.Module
    world: World
    settings: dict[str, Any] | None  # of the library beneath, where there is one, for the record

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        loss_of: Callable[[nn.Module, Batch], Tensor],
        *,
        lr: float,
        skip_threshold: float = math.inf,
    ) -> StepResult:
        """Backward over all micro-batches, then one step at learning rate `rate` x each group's factor.

        A step whose loss or gradient norm is not finite, or whose norm is above `ceiling`, changes neither weights nor
        moments, averages or step counts, on any rank.
        """
        ...

    def sync_buffers(self) -> None:
        """Make what is not trained, such as the running statistics of batch norms, the same on all ranks: their mean.

        Called by all ranks before the module is evaluated or given away.
        """
        ...

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        """This rank's share of module and optimizer, copied to the host; no rank waits for another.

        The memory of `into`, an earlier one that is done with, is used again: fresh memory takes longer than the copy.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write this rank's share into `folder`; called by all ranks with the same folder, which may be at any time."""
        ...

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote with any number of processes, ZeRO stage, precision or engine; called by all ranks.

        Raises:
            StateError: the state is missing, damaged, or does not fit this module.
        """
        ...

    def full_state(self, *, ema: bool = False) -> dict[str, Tensor]:
        """The whole module in float32 on the host, or the average of its weights; called by all ranks.

        Raises:
            UserError: an `average` is asked for, but optimizer.ema is not set.
        """
        ...


@dataclass(frozen=True)
class EnginePlan:
    """All that an engine needs beside the module and its parameter groups."""

    config: EngineConfig
    optimizer: OptimizerConfig
    world: World
    micro_batches: int = 1  # forward passes a step on each rank


def build_engine(module: nn.Module, groups: list[dict[str, Any]], plan: EnginePlan) -> Engine:
    """The engine that `plan.config.kind` names, with AdamW over `groups`; `module` is moved to the rank's device.

    Raises:
        UserError: the plan does not fit the module or the number of processes.
    """
    if plan.config.deterministic:
        make_deterministic()
    prepare_blocks(module, checkpointing=plan.config.activation_checkpointing, compiled=plan.config.compile)
    if plan.config.kind == "local":
        from videomae.engine.local import LocalEngine

        return LocalEngine(module, groups, plan)
    from videomae.engine.deepspeed_engine import DeepSpeedEngine  # only runs that use DeepSpeed need it installed

    return DeepSpeedEngine(module, groups, plan)


def summarize(losses: Sequence[Tensor], world: World) -> tuple[Tensor, Tensor]:
    """Mean and maximum over ranks of the mean of each rank's `losses`; one collective."""
    every = world.all_gather_scalar(torch.stack(list(losses)).mean())
    return every.mean(), every.max()


def require_ema(config: OptimizerConfig, asked: bool) -> None:
    """Raises ValueError if the average of the weights is `asked` for and not kept."""
    if asked and config.ema is None:
        raise UserError("no average of the weights is kept; type optimizer.ema=0.9999, or take the weights themselves")
