"""The Engine protocol, its config, and the result of one optimizer step.

An engine owns the module, the optimizer and gradient reduction; it knows nothing of videos, masks or epochs. The caller
passes the loss as a function of the module and a micro-batch. `LocalEngine` is the reference in plain PyTorch;
`DeepSpeedEngine` must match it. `factory.build_engine` builds either.
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
from videomae.engine.optimizer import OptimizerConfig
from videomae.engine.state.snapshot import Snapshot

Batch = TypeVar("Batch")


@configclass
class EngineConfig:
    """Engine, precision and memory settings."""

    kind: Literal["local", "deepspeed"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 0  # the smallest that fits is the fastest
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # fp16, with a dynamic loss scale, for GPUs without bf16
    micro_batch: int | None = None  # clips per forward pass and device; None takes the rank's whole share of the batch
    # Gradients of several micro-batches accumulate in float32 at stage 0, in `precision` from stage 1 on.
    activation_checkpointing: bool = False  # keep only each block's input and recompute the rest: less memory
    compile: bool = False  # torch.compile each block
    deterministic: bool = False  # deterministic CUDA kernels, slower; see factory.make_deterministic

    def __post_init__(self) -> None:
        if self.compile and self.zero_stage == 3 and self.kind == "deepspeed":
            raise UserError(
                "engine.compile=true gains nothing with engine.zero_stage=3, whose parameter gathering in each layer "
                "breaks the graph of every block; type engine.compile=false, or engine.zero_stage=2 or less"
            )

    def split(self, *, batch: int, world_size: int) -> tuple[int, int]:
        """Split a global `batch`: (clips per micro-batch, micro-batches per step on each rank).

        Raises:
            UserError: the batch does not split into equal micro-batches on `world_size` ranks.
        """
        if batch % world_size:
            raise UserError(f"batch={batch} must be a multiple of the {world_size} processes")
        per_rank = batch // world_size
        micro_batch = self.micro_batch or per_rank
        if per_rank % micro_batch:
            raise UserError(
                f"engine.micro_batch={micro_batch} must divide the {per_rank} clips that each of {world_size} "
                f"processes gets of batch={batch}"
            )
        return micro_batch, per_rank // micro_batch


@dataclass(frozen=True)
class StepResult:
    """Scalars of one optimizer step, on the device and equal on all ranks."""

    loss: Tensor  # mean over micro-batches and ranks
    loss_max: Tensor  # maximum over ranks of each rank's mean; of the weighted clips where a batch is padded
    grad_norm: Tensor  # over all ranks and parameters, before clipping; not finite if a gradient is not
    skipped: Tensor  # 1 if the step changed nothing, else 0


class Engine(Protocol):
    """Runs optimizer steps of one module on all ranks, with the same number of micro-batches on each."""

    module: nn.Module
    world: World
    settings: dict[str, Any] | None  # of the underlying library, for the run's records; None without one

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        loss_of: Callable[[nn.Module, Batch], Tensor],
        *,
        lr: float,
        skip_threshold: float = math.inf,
    ) -> StepResult:
        """Run backward over all micro-batches, then one optimizer step at `lr` x each group's `lr_scale`.

        If the loss or the gradient norm is not finite, or the norm exceeds `skip_threshold`, the step changes no
        weights, moments, EMA or step counts on any rank.
        """
        ...

    def sync_buffers(self) -> None:
        """Average persistent buffers, such as batch-norm statistics, over all ranks.

        Called by all ranks before the module is evaluated or exported.
        """
        ...

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        """Copy this rank's shards of module and optimizer state to the host, without communication.

        Reuses the memory of `into`, an earlier snapshot that is no longer needed: allocating takes longer than copying.
        """
        ...

    def load(self, folder: Path) -> None:
        """Restore a saved state, written with any number of processes, ZeRO stage, precision or engine.

        Called by all ranks.

        Raises:
            StateError: the state is missing, damaged, or does not fit this module.
        """
        ...

    def full_state(self, *, ema: bool = False) -> dict[str, Tensor]:
        """Return the whole module, or its EMA weights, in float32 on the host; called by all ranks.

        Raises:
            UserError: `ema` is requested, but optimizer.ema is not set.
        """
        ...


@dataclass(frozen=True)
class EnginePlan:
    """Everything an engine needs besides the module and its parameter groups."""

    config: EngineConfig
    optimizer: OptimizerConfig
    world: World
    micro_batches: int = 1  # forward passes per step on each rank


def reduce_losses(losses: Sequence[Tensor], world: World) -> tuple[Tensor, Tensor]:
    """Return mean and maximum over ranks of the mean of each rank's `losses`; one collective."""
    rank_means = world.all_gather_scalar(torch.stack(list(losses)).mean())
    return rank_means.mean(), rank_means.max()


def require_ema(config: OptimizerConfig, ema: bool) -> None:
    """Raise UserError if `ema` is requested but not kept."""
    if ema and config.ema is None:
        raise UserError("no EMA of the weights is kept; type optimizer.ema=0.9999, or use the weights themselves")
