"""The training loop of all stages: resume, iterate, log, save, stop, roll back, finish.

    with open_run("Pretraining", config, world, inputs=files) as session:
        trainer = Trainer(session, config, model, schedule=schedule)
        for step, micro_batches in trainer.steps(stream.batches):
            result = trainer.train_step(step, micro_batches, loss_fn)
            trainer.record(step, result)
        trainer.finish()

The stage supplies the data stream, the model and the loss; this module is independent of them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from torch import Tensor, nn

from videomae.core.files import write_json
from videomae.core.progress import logger, track
from videomae.core.signals import LimitReached, Stopped
from videomae.engine.protocol import StepResult
from videomae.engine.schedule import Schedule
from videomae.run.checkpoint import Checkpoint, CheckpointStore, Saver, SaveReport, find_latest, find_resume_point
from videomae.run.config import TrainingConfig
from videomae.run.health.guard import Guard
from videomae.run.health.stragglers import Stragglers
from videomae.run.metrics.meter import Span, Workload
from videomae.run.metrics.recorder import ExtraMetrics, Recorder
from videomae.run.session import RunSession

T = TypeVar("T")


class Trainer:
    """Trains a model from its last checkpoint to the end of the schedule. Every rank creates one trainer."""

    def __init__(
        self,
        session: RunSession,
        config: TrainingConfig,
        model: nn.Module,
        *,
        schedule: Schedule,
        workload: Workload | None = None,
        lr_scale: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        """Build the engine and resume; `lr_scale(name)` is the factor on the learning rate of a parameter."""
        self._session, self._config, self._schedule, self._world = session, config, schedule, session.world
        self._run = config.directory
        self.engine = config.build_engine(model, self._world, lr_scale=lr_scale)
        if self._world.is_main and self.engine.settings is not None:
            write_json(self._run.deepspeed_settings, self.engine.settings)
        self._recorder = Recorder(config, world=self._world, schedule=schedule, workload=workload)
        session.at_exit(lambda: self._recorder.close(seconds=session.stop.left(config.checkpoint.deadline)))
        self._saver = self._make_saver()
        self._save_due, self._guard = False, Guard(config.health)
        self._stragglers = Stragglers(config.health, self._world, report=self._recorder.write)
        self._data_error: Exception | None = None  # raised while this rank loaded data
        self._batches = 0  # global batches consumed: by steps, and skipped by rollbacks
        self.step = self._resume()  # number of completed steps
        self._start_step = self.step  # a stop at this step does not need a save

    def _make_saver(self) -> Saver:
        config, batch, interval = self._config.checkpoint, self._config.batch, self._schedule.interval
        every = interval(config.every, batch=batch)
        keep_every = interval(config.keep_every, batch=batch) if config.keep_every else None
        self._store = CheckpointStore(
            self._run.checkpoints,
            world=self._world,
            keep=config.keep,
            keep_every=keep_every,
            background_removal=config.asynchronous,
        )
        return Saver(self._store, config, every=every, snapshot=self.engine.snapshot, report=self._record_save)

    def _resume(self) -> int:
        checkpoint = find_resume_point(self._store, self._config.checkpoint.resume)
        if checkpoint is None:
            self._recorder.truncate(0)
            return 0
        self._restore(checkpoint)
        if checkpoint.folder.parent != self._store.folder:
            self._guard = Guard(self._config.health)  # a new run starts with a new health record
        if self._world.is_main:
            logger.info("%s resumes at step %d of %d", self._session.title, checkpoint.step, self._schedule.total)
        return checkpoint.step

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.engine.load(checkpoint.folder)
        self._guard = Guard(self._config.health)
        self._guard.load_state_dict(checkpoint.progress.get("health"))
        self._batches = checkpoint.batches
        self._recorder.truncate(checkpoint.step)

    def steps(
        self, stream: Callable[[int], Iterator[list[T]]], *, before_step: Callable[[int], object] = lambda step: None
    ) -> Iterator[tuple[int, list[T]]]:
        """Yield (0-based step, its micro-batches) until the end of the schedule.

        `stream(start)` yields global batches from `start` on. `before_step(step)` is called before every step,
        including the step at which a run resumes or to which it rolls back.

        Raises:
            Stopped: a stop was requested; the state is saved.
            Exception: loading data failed on one rank; raised on every rank after the state is saved.
            LimitReached: training is unhealthy, and no rollback is left or possible.
        """
        total, watchdog = self._schedule.total, self._session.watchdog
        if self.step >= total:
            return
        batches = stream(self._batches)
        with track(self._session.title, total=total, done=self.step, show=self._world.is_main) as task:
            while self.step < total:
                before_step(self.step)
                micro_batches = self._next(batches)
                if self._sync_flags():
                    failed_at = self.step
                    with watchdog.allow("the rollback to a checkpoint", self._config.health.start_seconds):
                        self._rollback()
                    task.advance(self.step - failed_at)
                    batches = stream(self._batches)
                    continue
                assert micro_batches is not None, "only a stop or a data error leaves a step without data"
                self._batches += 1
                yield self.step, micro_batches
                task.advance(note=self._recorder.note)
                watchdog.beat(f"step {self.step + 1}")

    def train_step(
        self, step: int, micro_batches: Sequence[T], loss_fn: Callable[[nn.Module, T], Tensor]
    ) -> StepResult:
        """Run the 0-based `step` at its learning rate; skip it if the gradient norm exceeds the guard's threshold."""
        return self.engine.train_step(
            micro_batches,
            self._stragglers.timed(loss_fn),
            lr=self._schedule.lr(step),
            skip_threshold=self._guard.skip_threshold,
        )

    def record(self, step: int, result: StepResult, extra_metrics: ExtraMetrics = MappingProxyType({})) -> None:
        """Log and save after the 0-based `step` when due; `extra_metrics` are averaged over ranks."""
        self.step, total = step + 1, self._schedule.total
        self._guard.observe(result)
        self._recorder.record(step, result, extra_metrics)
        if self._recorder.should_log(step):
            self._session.report_progress(self.step, total)
            self._stragglers.compare(self.step, steps=self._config.metrics.every)
        # A rollback would have to discard a checkpoint saved while steps are skipped: save once training is healthy.
        self._save_due = self._save_due or self._saver.due(self.step)
        if self.step == total or (self._save_due and self._guard.healthy):
            self._save(must=self.step == total)

    def finish(self) -> None:
        """Write the summary and mark the run as finished; call it after everything else is written."""
        if self.step < self._schedule.total:  # the stage left the loop early
            self._save_final()
        self._session.watchdog.beat("the end of the run")
        self._recorder.close()
        if self._world.is_main:
            write_json(self._run.summary, self._recorder.summary(self.step))
        self._session.mark_finished()
        self._world.barrier()

    def iter_until_stop(self, batches: Iterable[T], *, most: int) -> Iterator[T]:
        """Yield the `batches` of an evaluation, of which no rank has more than `most`; a stop ends it on all ranks.

        Raises:
            Stopped: as in `steps`; the resumed run repeats the evaluation.
            Exception: as in `steps`.
        """
        iterator = iter(batches)
        for number in range(1, most + 1):
            self._session.watchdog.beat(f"batch {number} of {most} of the evaluation")
            batch = self._load(lambda: next(iterator, None))
            self._sync_flags()
            if batch is not None:
                yield batch

    def should_log(self, step: int) -> bool:
        """Return whether the 0-based `step` will be logged; use it to avoid computing metrics that are not logged."""
        return self._recorder.should_log(step)

    def log(self, kind: str, step: int, **values: Any) -> None:
        """Append a record of `kind`, such as an evaluation, to metrics.jsonl."""
        self._recorder.write(kind, step, **values)

    def exclude_time(self, name: str) -> AbstractContextManager[Span]:
        """Return a context manager whose duration does not count as training time, such as an evaluation."""
        return self._recorder.exclude_time(name)

    def _next(self, batches: Iterator[list[T]]) -> list[T] | None:
        with self._recorder.data_wait(self.step) as wait:
            micro_batches = self._load(lambda: next(batches))
        self._stragglers.add_data_wait(wait.seconds)
        return micro_batches

    def _load(self, load: Callable[[], T]) -> T | None:
        """Return the result of `load`, or None if a stop interrupted it or it failed; `_sync_flags` tells all ranks."""
        try:
            return self._session.stop.interruptible(load)
        except Exception as error:  # any exception: the other ranks would wait for this one
            self._data_error = error
            logger.error("no data on rank %d, %s: %s", self._world.rank, socket.gethostname(), error)
            return None

    def _sync_flags(self) -> bool:
        """Exchange stop, error, health and save flags in one collective, act on them; return whether to roll back."""
        stop, saver = self._session.stop, self._saver
        failures = (stop.reason is not None, self._data_error is not None, self._guard.failure is not None)
        flags = (*failures, saver.busy, saver.failed)
        must_stop, data_failed, must_roll_back, busy, failed = self._world.any_rank(flags)
        saver.poll(busy=busy, failed=failed)
        if must_stop:
            self._stop()
        if data_failed:
            self._save_final()
            self._session.leave_together = True
            self._world.run_all_or_raise(self._raise_data_error)
        return must_roll_back

    def _raise_data_error(self) -> None:
        if self._data_error is not None:
            raise self._data_error

    def _stop(self) -> NoReturn:
        reasons = self._world.all_gather_object(self._session.stop.reason)
        logger.info("stopping: %s", next(reason for reason in reasons if reason is not None))
        self._save_final()
        self._session.clear_stop_file()
        raise Stopped(f"{self._session.title} stopped and saved at step {self.step}; the same command continues it")

    def _rollback(self) -> None:
        """Load the last healthy checkpoint, skip the data consumed since, and save at the new data position."""
        failed_at, failure, to_batch = self.step, self._guard.failure, self._batches
        rollbacks = self._guard.rollbacks + 1
        self._saver.wait()
        checkpoint = self._last_healthy_checkpoint()
        logger.error("at step %d: %s; rolling back to step %d, with other data", failed_at, failure, checkpoint.step)
        self._store.abandon_after(checkpoint.step)
        self._restore(checkpoint)
        self._guard.rollbacks, self._batches, self.step = rollbacks, to_batch, checkpoint.step
        values = {"from_step": failed_at, "from_batch": checkpoint.batches, "to_batch": to_batch, "reason": failure}
        self._recorder.write("rollback", self.step, **values)
        self._saver.saved = -1  # save the same step again, with a different data position
        self._save(must=True)
        self._start_step = self.step

    def _last_healthy_checkpoint(self) -> Checkpoint:
        """Return the newest complete checkpoint saved while training was healthy; all ranks must call this function.

        Raises:
            LimitReached: there is none, or the limit of rollbacks is reached.
        """
        limit, rollbacks = self._config.health.rollbacks, self._guard.rollbacks
        found = find_latest(self._store.folder, world=self._world).checkpoint if rollbacks < limit else None
        while found is not None and not Guard.was_healthy(found.progress.get("health")):
            found = find_latest(self._store.folder, world=self._world, at_most=found.step - 1).checkpoint
        if found is None:
            raise LimitReached(
                f"{self._run.path} cannot continue at step {self.step}: {self._guard.failure}. It has rolled back "
                f"{rollbacks} times (health.rollbacks={limit}), and a restart would do the same. Its checkpoints are "
                f"intact. Look at {self._run.metrics}; then start a new run from it with run=PATH "
                f"checkpoint.resume={self._run.path} and a lower optimizer.lr or optimizer.clip=1.0, or let this one "
                f"try again with health.rollbacks={limit + 3}"
            )
        return found

    def _save_final(self) -> None:
        if self.step != self._start_step:
            self._save(must=True, seconds=self._config.checkpoint.deadline)
        else:
            with self._session.watchdog.allow("the save in progress", self._config.health.start_seconds):
                self._saver.wait()

    def _save(self, *, must: bool, seconds: float | None = None) -> None:
        self._save_due = False
        allow = self._session.watchdog.allow(
            f"the save at step {self.step}", seconds or self._config.health.start_seconds
        )
        with allow, self._recorder.exclude_time("save"):
            self._saver.save(self._progress(), must=must)

    def _progress(self) -> dict[str, Any]:
        config, seed, health = self._config.engine, self._config.seed, self._guard.state_dict()
        engine = {"kind": config.kind, "zero_stage": config.zero_stage, "precision": config.precision}
        engine["world"] = self._world.size
        return {"step": self.step, "batches": self._batches, "seed": seed, "engine": engine, "health": health}

    def _record_save(self, save: SaveReport) -> None:
        if save.fault is None:
            self._session.mark_checkpointed()
        values = {"seconds": save.seconds, "blocked_seconds": save.blocked_seconds, "bytes": save.bytes}
        self._recorder.write("checkpoint", save.step, **values, **({"fault": save.fault} if save.fault else {}))
