"""The config shared by all training stages; `pretrain` and `finetune` extend it."""

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
    """Settings of a training run other than model, data and objective."""

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
        """Return durations in steps and learning rates for a data set of `steps_per_epoch` global batches."""
        peak_lr = self.optimizer.peak_lr(self.batch)
        return make_schedule(self.schedule, peak_lr=peak_lr, steps_per_epoch=steps_per_epoch, batch=self.batch)

    def batch_plan(self, world: World) -> BatchPlan:
        """Return how the global batch is split over the ranks of `world`.

        Raises:
            UserError: the batch is not divisible into ranks and micro-batches.
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
        """Build the engine for `model`; `lr_scale(name)` is the factor on the learning rate of a parameter."""
        groups = parameter_groups(
            model, weight_decay=self.optimizer.weight_decay, lr_scale=lr_scale, kind=self.optimizer.kind
        )
        micro_batches = self.batch_plan(world).micro_batches
        return build_engine(model, groups, EnginePlan(self.engine, self.optimizer, world, micro_batches))
