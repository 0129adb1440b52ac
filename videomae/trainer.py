"""The frame round a training loop, the same for every stage: resume, time, log, save, stop, go back.

    for step, micro_batches in training.steps(stream):
        update = engine.update(micro_batches, loss_of, rate=timetable.rate(step), ceiling=training.ceiling)
        training.record(step, update)

The stage brings the stream, the loss and the model; this module knows none of them.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from torch import Tensor, nn

from videomae.core.files import write_json
from videomae.core.progress import logger, track
from videomae.core.signals import Stopped
from videomae.engine.protocol import Engine, StepResult
from videomae.engine.schedule import Schedule
from videomae.run.checkpoint import Checkpoint, CheckpointStore, Saver, SaveReport, starting_point
from videomae.run.health.guard import Guard
from videomae.run.health.rollback import last_good
from videomae.run.health.stragglers import Stragglers
from videomae.run.metrics import read_metrics
from videomae.run.metrics.meter import Span, Workload
from videomae.run.metrics.recorder import ExtraMetrics, Recorder
from videomae.run.session import RunSession
from videomae.stage import TrainingConfig

T = TypeVar("T")


class Trainer:
    """One stage's run from its last checkpoint to its end, on every rank."""

    def __init__(
        self,
        attempt: RunSession,
        config: TrainingConfig,
        *,
        engine: Engine,
        timetable: Schedule,
        workload: Workload | None = None,
    ) -> None:
        self._attempt, self._config, self._engine, self._timetable = attempt, config, engine, timetable
        self._world = engine.world
        run = config.directory
        if self._world.is_main and engine.settings is not None:
            write_json(run.deepspeed_settings, engine.settings)
        self._recorder = Recorder(config, world=self._world, timetable=timetable, workload=workload)
        attempt.at_exit(lambda: self._recorder.close(seconds=attempt.stop.left(config.checkpoint.deadline)))
        self._saver = self._make_saver()
        self._guard, self._batches = Guard(config.health), 0  # batches used up: the steps, and what was passed over
        self._stragglers = Stragglers(config.health, self._world, report=self._recorder.write)
        self._save_is_due = False
        self._fault: Exception | None = None  # of this rank's data
        self.start = self.done = self._resume()

    def _make_saver(self) -> Saver:
        config, batch = self._config.checkpoint, self._config.batch
        interval = self._timetable.interval
        self._store = CheckpointStore(
            self._config.directory.checkpoints,
            world=self._world,
            keep=config.keep,
            keep_every=interval(config.keep_every, batch=batch) if config.keep_every else None,
            sweep_beside=config.asynchronous,
        )
        every = interval(config.every, batch=batch)
        return Saver(self._store, config, every=every, take=self._engine.snapshot, report=self._record_save)

    def _record_save(self, save: SaveReport) -> None:
        if save.fault is None:
            self._attempt.mark_checkpointed()
        values = {"seconds": save.seconds, "blocked_seconds": save.blocked_seconds, "bytes": save.bytes}
        self._recorder.write("checkpoint", save.step, **values, **({"fault": save.fault} if save.fault else {}))

    def _resume(self) -> int:
        checkpoint = starting_point(self._store, self._config.checkpoint.resume)
        if checkpoint is None:
            self._recorder.cut_back(0)
            return 0
        self._restore(checkpoint)
        if checkpoint.folder.parent != self._store.folder:
            self._guard = Guard(self._config.health)  # another run's troubles are not ours
        if self._world.is_main:
            logger.info("%s resumes at step %d of %d", self._attempt.title, checkpoint.step, self._timetable.total)
        return checkpoint.step

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._engine.load(checkpoint.folder)
        self._guard = Guard(self._config.health)
        self._guard.load(checkpoint.progress.get("health"))
        self._batches = checkpoint.batches
        self._recorder.cut_back(checkpoint.step)

    @property
    def skip_threshold(self) -> float:
        """The largest gradient norm with which the next step may be taken."""
        return self._guard.skip_threshold

    def timed(self, loss_of: Callable[[nn.Module, T], Tensor]) -> Callable[[nn.Module, T], Tensor]:
        """`loss_of`, its time counted as this rank's own work; see `videomae.run.health.stragglers`."""
        return self._stragglers.timed(loss_of)

    def steps(
        self, stream: Callable[[int], Iterator[list[T]]], *, before_step: Callable[[int], object] = lambda done: None
    ) -> Iterator[tuple[int, list[T]]]:
        """Yield (0-based step, its micro-batches) to the end; `stream(start)` gives the batches from number `start` on.

        `between(done)` is called before every step, also of a step at which a run resumes or to which it goes back.

        Raises:
            Stopped: a stop was asked for; the state is saved.
            Exception: what the data of one rank has come to, on every rank; the state is saved.
            LimitReached: the run is not healthy, and going back to a checkpoint has not helped.
        """
        total, watchdog = self._timetable.total, self._attempt.watchdog
        if self.done >= total:
            return
        batches = stream(self._batches)
        with track(self._attempt.title, total=total, done=self.done, show=self._world.is_main) as task:
            while self.done < total:
                before_step(self.done)
                micro_batches = self._next(batches)
                if self._sync_flags():
                    left = self.done
                    with watchdog.allow("going back to a checkpoint", self._config.health.start_seconds):
                        self._rollback()
                    task.advance(self.done - left)
                    batches = stream(self._batches)
                    continue
                assert micro_batches is not None, "waiting is only given up for a stop, and then we have left"
                self._batches += 1
                yield self.done, micro_batches
                task.advance(note=self._recorder.note)
                watchdog.beat(f"step {self.done + 1}")

    def iter_until_stop(self, batches: Iterable[T], *, most: int) -> Iterator[T]:
        """The `batches` of an evaluation, of which some ranks have `most` and some fewer; a stop need not wait for all.

        Raises:
            Stopped: as in `steps`; the evaluation is done again when the run goes on.
        """
        left = iter(batches)
        for number in range(1, most + 1):
            self._attempt.watchdog.beat(f"batch {number} of {most} of the evaluation")
            batch = self._loaded(lambda: next(left, None))
            self._sync_flags()
            if batch is not None:
                yield batch

    def _next(self, batches: Iterator[list[T]]) -> list[T] | None:
        asked = time.perf_counter()
        with self._recorder.waiting(self.done):
            micro_batches = self._loaded(lambda: next(batches))
        self._stragglers.waited(time.perf_counter() - asked)
        return micro_batches

    def _loaded(self, load: Callable[[], T]) -> T | None:
        """What `load` gives; None if a stop broke it off, or a fault of this rank's data, which `_meet` tells all."""
        try:
            return self._attempt.stop.interruptible(load)
        except Exception as error:  # whatever it is, the other ranks would wait for this one
            self._fault = error
            logger.error("no data on rank %d, %s: %s", self._world.rank, socket.gethostname(), error)
            return None

    def _sync_flags(self) -> bool:
        """In one collective, all ranks settle what has come up; gives whether the run must go back."""
        asked, trouble = self._attempt.stop.reason, self._guard.trouble
        flags = (asked is not None, self._fault is not None, trouble is not None, self._saver.busy, self._saver.failed)
        stop, lost, back, busy, failed = self._world.any_rank(flags)
        self._saver.settle(busy=busy, failed=failed)
        if stop:
            self._stop(asked)
        if lost:
            self._save_final()
            self._attempt.together = True
            self._world.run_all_or_raise(self._raise_fault)
        return back

    def _stop(self, asked: str | None) -> NoReturn:
        reasons = [reason for reason in self._world.all_gather_object(asked) if reason is not None]
        logger.info("stopping: %s", reasons[0])
        self._save_final()
        self._attempt.stopped()
        title = self._attempt.title
        raise Stopped(f"{title} stopped and saved at step {self.done}; the same command continues it")

    def _save_final(self) -> None:
        """Save what this start has done."""
        if self.done != self.start:
            self._save(must=True, seconds=self._config.checkpoint.deadline)
        else:
            with self._attempt.watchdog.allow("the save under way", self._config.health.start_seconds):
                self._saver.wait()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _rollback(self) -> None:
        """Load the last good checkpoint, pass over the data up to here, and save where that is."""
        guard, passed, left = self._guard, self._batches, self.done
        self._saver.wait()
        good = last_good(self._store, guard, self._config.directory, left=left)
        logger.error("at step %d: %s; back to step %d, with other data", left, guard.trouble, good.step)
        values = {"from_step": left, "from_batch": good.batches, "to_batch": passed, "reason": guard.trouble}
        rollbacks = guard.rollbacks + 1
        self._store.set_aside_after(good.step)
        self._restore(good)
        self._guard.rollbacks, self._batches = rollbacks, passed
        self.done = good.step
        self._recorder.write("rollback", self.done, **values)
        self._saver.saved = -1  # the same step again, at another place in the data
        self._save(must=True)
        self.start = self.done  # a stop just here has nothing to save; one at the step of the start has

    def should_log(self, step: int) -> bool:
        """Whether the 0-based `step` will be logged, for what is only worth computing then."""
        return self._recorder.should_log(step)

    def record(self, step: int, update: StepResult, extra_metrics: ExtraMetrics = MappingProxyType({})) -> None:
        """Log and save after the 0-based `step`, when due; of the scalars `beside` the mean over ranks is logged."""
        self.done, total = step + 1, self._timetable.total
        self._guard.watch(update)
        self._recorder.record(step, update, extra_metrics)
        if self._recorder.should_log(step):
            self._attempt.report_progress(self.done, total)
            self._stragglers.look(self.done, steps=self._config.metrics.every)
        # What is saved while steps are being skipped may be what has to be left behind: better a little later.
        self._save_is_due = self._save_is_due or self._saver.due(self.done)
        if self.done == total or (self._save_is_due and self._guard.clean):
            self._save(must=self.done == total)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Log other values, such as an evaluation's."""
        self._recorder.write(kind, step, **values)

    def exclude_time(self, what: str) -> AbstractContextManager[Span]:
        """What is done inside, such as an evaluation, does not count as training."""
        return self._recorder.exclude_time(what)

    def _save(self, *, must: bool, seconds: float | None = None) -> None:
        self._save_is_due = False
        patience = seconds or self._config.health.start_seconds
        with (
            self._attempt.watchdog.allow(f"the save at step {self.done}", patience),
            self._recorder.exclude_time("save"),
        ):
            self._saver.save(self._progress(), must=must)

    def _progress(self) -> dict[str, Any]:
        """Where the run stands, for its checkpoint."""
        engine = self._config.engine
        return {
            "step": self.done,
            "batches": self._batches,
            "seed": self._config.seed,
            "engine": {
                "kind": engine.kind,
                "zero_stage": engine.zero_stage,
                "precision": engine.precision,
                "world": self._world.size,
            },
            "health": self._guard.state(),
        }

    def finish(self) -> None:
        """Mark the run as finished, after everything else is written."""
        self._attempt.watchdog.beat("the end of the run")
        self._recorder.close()
        if self._world.is_main:
            lines = [line for line in read_metrics(self._config.directory.metrics) if line["kind"] == "train"]
            summary = {
                "steps": self._timetable.total,
                "loss": lines[-1]["loss"] if lines else None,
                "seconds": round(sum(line["seconds"] for line in lines), 3),
            }
            write_json(self._config.directory.summary, summary)
        self._attempt.completed()
        self._world.barrier()
