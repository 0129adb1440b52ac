"""The frame round a training loop, the same for every stage: resume, time, log, save, stop.

    for step, micro_batches in training.steps(stream):
        update = engine.update(micro_batches, loss_of, rate=timetable.rate(step))
        training.record(step, update)

The stage brings the stream, the loss and the model; this module knows none of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from torch import nn

from videomae.checkpoint import CheckpointConfig, CheckpointStore, Saver, SaveReport, deadline, starting_point
from videomae.config import configclass
from videomae.distributed import World
from videomae.engine import Engine, EngineConfig, EnginePlan, Update, build_engine
from videomae.inputs import hold
from videomae.meter import Workload
from videomae.metrics import MetricsConfig, read, require_finite
from videomae.optimizer import OptimizerConfig, parameter_groups
from videomae.progress import Task, log_to, logger, track
from videomae.recorder import Beside, Recorder
from videomae.run import RunDirectory, write_whole
from videomae.schedule import ScheduleConfig, Timetable, make_timetable, steps_of
from videomae.shards.loader import LoaderConfig
from videomae.stopping import Stopped, StopRequest

T = TypeVar("T")


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

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(Path(self.run))


def open_run(title: str, config: TrainingConfig, world: World, *, inputs: Sequence[Path]) -> tuple[RunDirectory, bool]:
    """Create or reopen the run's directory, send log lines there, and say whether the run is already finished.

    Raises:
        ConfigError: the directory holds a run with other settings.
        ValueError: the run began with other `inputs`, or is finished and shall not be reused.
    """
    run = config.directory
    run.prepare(config, world)
    log_to(run.log(world.rank), console_too=world.first)
    world.on_first(lambda: hold(run, inputs))
    finished = world.share(run.summary.exists())
    if finished:
        if config.checkpoint.resume == "never":
            raise ValueError(f"checkpoint.resume=never, but {run.path} is finished; type run=PATH for a new run")
        if world.first:
            logger.info("%s in %s is finished already and is reused; remove the folder to start again", title, run.path)
    return run, finished


def plan(config: TrainingConfig, *, steps_per_epoch: int) -> Timetable:
    """The run's durations and rates on a data set of `steps_per_epoch` batches.

    Raises:
        ValueError: see `make_timetable`.
    """
    peak_rate = config.optimizer.peak(config.batch)
    return make_timetable(config.schedule, peak_rate=peak_rate, steps_per_epoch=steps_per_epoch, batch=config.batch)


def start_engine(
    model: nn.Module, config: TrainingConfig, world: World, *, rate_factor: Callable[[str], float] = lambda name: 1.0
) -> Engine:
    """`model` under the config's engine; `rate_factor(name)` is the factor on a parameter's rate."""
    groups = parameter_groups(model, weight_decay=config.optimizer.weight_decay, rate_factor=rate_factor)
    _, micro_batches = config.engine.split(batch=config.batch, world_size=world.size)
    return build_engine(model, groups, EnginePlan(config.engine, config.optimizer, world, micro_batches))


class Training:
    """One stage's run from its last checkpoint to its end, on every rank."""

    def __init__(
        self,
        title: str,
        config: TrainingConfig,
        *,
        engine: Engine,
        timetable: Timetable,
        workload: Workload | None = None,
    ) -> None:
        self._title, self._config, self._engine, self._timetable = title, config, engine, timetable
        self._world = engine.world
        run = config.directory
        self._stop = StopRequest(run.path, self._world)
        if self._world.first and engine.settings is not None:
            write_whole(run.deepspeed_settings, json.dumps(engine.settings, indent=1))
        self._recorder = Recorder(
            run,
            config.metrics,
            world=self._world,
            timetable=timetable,
            batch=config.batch,
            precision=config.engine.precision,
            workload=workload,
        )
        self._saver = self._make_saver()
        self._update: Update | None = None
        self.start = self._resume()

    def _make_saver(self) -> Saver:
        config, timetable = self._config.checkpoint, self._timetable

        def steps(duration: str) -> int:
            return max(1, steps_of(duration, steps_per_epoch=timetable.steps_per_epoch, batch=self._config.batch))

        self._store = CheckpointStore(
            self._config.directory.checkpoints,
            world=self._world,
            keep=config.keep,
            keep_every=steps(config.keep_every) if config.keep_every else None,
            sweep_beside=config.asynchronous,
        )
        take = self._engine.snapshot
        return Saver(self._store, config, every=steps(config.every), take=take, report=self._record_save)

    def _record_save(self, save: SaveReport) -> None:
        values = {"seconds": save.seconds, "blocked_seconds": save.blocked_seconds, "bytes": save.bytes}
        self._recorder.write("checkpoint", save.step, **values, **({"fault": save.fault} if save.fault else {}))

    def _resume(self) -> int:
        checkpoint = starting_point(self._store, self._config.checkpoint.resume)
        if checkpoint is None:
            self._recorder.cut_back(0)
            return 0
        self._engine.load(checkpoint.folder)
        self._recorder.cut_back(checkpoint.step)
        if self._world.first:
            logger.info("%s resumes at step %d of %d", self._title, checkpoint.step, self._timetable.total)
        return checkpoint.step

    def steps(self, stream: Callable[[int], Iterator[list[T]]]) -> Iterator[tuple[int, list[T]]]:
        """Yield (0-based step, its micro-batches) to the end; `stream(start)` gives the batches from step `start`.

        Raises:
            Stopped: a stop was asked for; the state is saved.
        """
        if self.start >= self._timetable.total:
            return
        batches = stream(self.start)
        with track(self._title, total=self._timetable.total, done=self.start, show=self._world.first) as task:
            for step in range(self.start, self._timetable.total):
                with self._recorder.waiting(step):
                    micro_batches = next(batches)
                yield step, micro_batches
                task.advance(note=self._recorder.note)
                self._stop_if_asked(step + 1, task)

    def _stop_if_asked(self, done: int, task: Task) -> None:
        if self._saver.pending:
            busy, failed = self._world.any_of((self._saver.busy, self._saver.failed))
            self._saver.settle(busy=busy, failed=failed)
        if done < self._timetable.total and self._stop.agreed():
            with deadline(self._config.checkpoint.deadline, "the save before the stop"):
                self._save(done, must=True)
            self._stop.clear()
            self._recorder.close()
            raise Stopped(f"{self._title} stopped and saved at step {done}; the same command continues it")

    def measures(self, step: int) -> bool:
        """Whether the 0-based `step` will be logged, for what is only worth computing then."""
        return self._recorder.due(step)

    def record(self, step: int, update: Update, beside: Beside = MappingProxyType({})) -> None:
        """Log and save after the 0-based `step`, when due; of the scalars `beside` the mean over ranks is logged.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        done, total = step + 1, self._timetable.total
        self._update = update
        if self._recorder.due(step):
            self._require_finite(done)
        self._recorder.record(step, update, beside)
        if self._saver.due(done) or done == total:
            self._save(done, must=done == total)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Log other values, such as an evaluation's."""
        self._recorder.write(kind, step, **values)

    def aside(self, what: str) -> AbstractContextManager[None]:
        """What is done inside, such as an evaluation, does not count as training."""
        return self._recorder.aside(what)

    def _save(self, done: int, *, must: bool) -> None:
        self._require_finite(done)
        engine = self._config.engine
        written_by = {
            "kind": engine.kind,
            "zero_stage": engine.zero_stage,
            "precision": engine.precision,
            "world": self._world.size,
        }
        with self._recorder.aside("save"):
            self._saver.save({"step": done, "seed": self._config.seed, "engine": written_by}, must=must)

    def _require_finite(self, done: int) -> None:
        if self._update is not None:
            require_finite(float(self._update.loss), what="the loss", step=done)
            require_finite(float(self._update.gradient_norm), what="the gradient's norm", step=done)

    def finish(self) -> None:
        """Mark the run as finished, after everything else is written."""
        self._recorder.close()
        if self._world.first:
            lines = [line for line in read(self._config.directory.metrics) if line["kind"] == "train"]
            summary = {
                "steps": self._timetable.total,
                "loss": lines[-1]["loss"] if lines else None,
                "seconds": round(sum(line["seconds"] for line in lines), 3),
            }
            write_whole(self._config.directory.summary, json.dumps(summary, indent=1))
        self._world.barrier()
