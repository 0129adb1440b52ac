"""How every training stage opens: what it is told, its run directory, its timetable and its engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from videomae.core.config import configclass
from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.core.progress import log_to, logger
from videomae.data.loader.loader import LoaderConfig
from videomae.engine.factory import build_engine
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import Engine, EngineConfig, EnginePlan
from videomae.engine.schedule import Schedule, ScheduleConfig, make_schedule
from videomae.run.checkpoint import CheckpointConfig
from videomae.run.claims import RunLock
from videomae.run.directory import RunDirectory
from videomae.run.health.guard import HealthConfig
from videomae.run.inputs import check_inputs
from videomae.run.lock import LockTimeouts, acquire
from videomae.run.metrics import MetricsConfig
from videomae.run.session import RunSession

SHUTDOWN_TIMEOUT = 30.0  # seconds beside its save that a start which leaves may take


@configclass
class TrainingConfig:
    """What every training stage is told; the stages' own configs add to it."""

    run: str  # directory of this run
    seed: int = 0
    batch: int  # clips a step, over all processes
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


def open_run(title: str, config: TrainingConfig, world: World, *, inputs: Sequence[Path]) -> RunSession:
    """Create or reopen the run's directory, send log lines there, and say whether the run is already finished.

    Raises:
        RunOwnedError: another start of the run lives; nothing was touched.
        ConfigError: the directory holds a run with other settings.
        UserError: the run began with other `inputs`, or is finished and shall not be reused.
    """
    owner = _own(config, world)
    try:
        finished = _prepare(title, config, world, inputs)
    except BaseException:
        if owner is not None:
            owner.release()
        raise
    if finished and owner is not None:
        owner.release()
    return RunSession(title, config.directory, config.health, world, finished=finished, owner=owner)


def _own(config: TrainingConfig, world: World) -> RunLock | None:
    """Make this start the run's owner, on all ranks or none; rank 0 keeps the claim."""
    health, kept = config.health, list[RunLock]()
    leaving = (config.checkpoint.deadline or health.start_seconds) + SHUTDOWN_TIMEOUT
    patience = LockTimeouts(silence=health.owner_seconds, leaving=leaving)
    world.main_only(lambda: kept.append(acquire(config.directory.path, os.environ, patience=patience)))
    return kept[0] if kept else None


def _prepare(title: str, config: TrainingConfig, world: World, inputs: Sequence[Path]) -> bool:
    """Make the directory, and say whether the run in it is finished."""
    run = config.directory
    run.prepare(config, world)
    log_to(run.log(world.rank), console_too=world.is_main)
    world.main_only(lambda: check_inputs(run, inputs))
    finished = world.broadcast_object(run.summary.exists())
    if finished:
        if config.checkpoint.resume == "never":
            raise UserError(f"checkpoint.resume=never, but {run.path} is finished; type run=PATH for a new run")
        if world.is_main:
            logger.info("%s in %s is finished already and is reused; remove the folder to start again", title, run.path)
    return bool(finished)


def plan(config: TrainingConfig, *, steps_per_epoch: int) -> Schedule:
    """The run's durations and rates on a data set of `steps_per_epoch` batches.

    Raises:
        UserError: see `make_timetable`.
    """
    peak_rate = config.optimizer.peak_lr(config.batch)
    return make_schedule(config.schedule, peak_lr=peak_rate, steps_per_epoch=steps_per_epoch, batch=config.batch)


def start_engine(
    model: nn.Module, config: TrainingConfig, world: World, *, lr_scale: Callable[[str], float] = lambda name: 1.0
) -> Engine:
    """`model` under the config's engine; `lr_scale(name)` is the factor on a parameter's learning rate."""
    groups = parameter_groups(model, weight_decay=config.optimizer.weight_decay, lr_scale=lr_scale)
    _, micro_batches = config.engine.split(batch=config.batch, world_size=world.size)
    return build_engine(model, groups, EnginePlan(config.engine, config.optimizer, world, micro_batches))
