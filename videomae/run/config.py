"""The configuration that every training stage shares; `pretrain` and `finetune` extend it with their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from videomae.core.config import configclass
from videomae.core.distributed import World
from videomae.data.loader.workers import LoaderConfig
from videomae.data.stream import BatchPlan
from videomae.engine.factory import build_engine
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import Engine, EngineConfig, EnginePlan
from videomae.engine.schedule import Schedule, ScheduleConfig, make_schedule
from videomae.run.checkpoint.config import CheckpointConfig
from videomae.run.directory import RunDirectory
from videomae.run.health.guard import HealthConfig
from videomae.run.metrics.config import MetricsConfig


@configclass
class TrainingConfig:
    """Settings of a training run, without model, data and objective."""

    run: str  # run directory
    seed: int = 0
    batch: int  # global batch size in clips, over all ranks
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    engine: EngineConfig = EngineConfig()
    loader: LoaderConfig = LoaderConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    metrics: MetricsConfig = MetricsConfig()
    health: HealthConfig = HealthConfig()

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(Path(self.run))

    def resolve_schedule(self, *, steps_per_epoch: int) -> Schedule:
        """Durations in steps and learning rates for a data set of `steps_per_epoch` global batches.

        Raises:
            UserError: see `make_schedule`.
        """
        peak_lr = self.optimizer.peak_lr(self.batch)
        return make_schedule(self.schedule, peak_lr=peak_lr, steps_per_epoch=steps_per_epoch, batch=self.batch)

    def batch_plan(self, world: World) -> BatchPlan:
        """How the global batch is split over the ranks of `world`.

        Raises:
            UserError: the batch does not divide into ranks and micro-batches.
        """
        micro_batch, micro_batches = self.engine.split(batch=self.batch, world_size=world.size)
        return BatchPlan(
            batch=self.batch,
            micro_batch=micro_batch,
            micro_batches=micro_batches,
            seed=self.seed,
            loader=self.loader.on(world.device),
            quarantine=self.directory.quarantine,
        )

    def build_engine(
        self, model: nn.Module, world: World, *, lr_scale: Callable[[str], float] = lambda name: 1.0
    ) -> Engine:
        """The engine around `model`; `lr_scale(name)` is the factor on a parameter's learning rate."""
        groups = parameter_groups(model, weight_decay=self.optimizer.weight_decay, lr_scale=lr_scale)
        micro_batches = self.batch_plan(world).micro_batches
        return build_engine(model, groups, EnginePlan(self.engine, self.optimizer, world, micro_batches))
