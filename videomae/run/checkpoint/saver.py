"""Save a running engine, synchronously or in the background, and handle failed saves.

A failed regular save raises an alarm on every rank and the run continues: a disk may be full for an hour, and that must
not end a week of work. The save is retried after a tenth of the interval. After more than `failures` consecutive
intervals without a save the run stops. The save at a stop, and the final one, raise at once.

An asynchronous save copies the state to the host, and a thread on each rank writes and hashes it. All ranks reduce
`busy` and `failed` after each step, and `poll` acts on the result: it commits when the last rank is done, and raises
the alarm as soon as one has failed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from videomae.core.progress import logger
from videomae.engine.state.snapshot import Snapshot
from videomae.run.checkpoint.config import CheckpointConfig
from videomae.run.checkpoint.staging import SaveError, Staging, WrittenPart
from videomae.run.checkpoint.store import CheckpointStore

RETRIES = 10  # per interval, after a failed save


@dataclass(frozen=True)
class SaveReport:
    """Total seconds of a save, seconds in which training was blocked, and this rank's bytes."""

    step: int
    seconds: float
    blocked_seconds: float
    bytes: int
    fault: str | None = None


class Saver:
    """Decides when to save, and saves; all ranks use every method and property at the same step."""

    def __init__(
        self,
        store: CheckpointStore,
        config: CheckpointConfig,
        *,
        every: int,
        snapshot: Callable[[Snapshot | None], Snapshot],
        report: Callable[[SaveReport], None] = lambda report: None,
    ) -> None:
        """`snapshot(earlier)` copies the state, into the memory of the copy `earlier` unless that is None."""
        self._store, self._config, self._every = store, config, every
        self._snapshot, self._report = snapshot, report
        self._pending: _Save | None = None  # in progress
        self._failures, self._failed_interval = 0, -1  # consecutive intervals without a save, and the last of them
        self._retry = False
        self._reusable: Snapshot | None = None  # its memory serves the next asynchronous save
        self.saved = -1  # the last step that is on disk

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing."""
        return self._pending is not None and self._pending.part is None

    @property
    def failed(self) -> bool:
        """Whether this rank could not write."""
        return self._pending is not None and self._pending.part is not None and self._pending.part.fault is not None

    @property
    def pending(self) -> bool:
        """Whether an asynchronous save is in progress, the same on every rank; then `poll` needs to be called."""
        return self._pending is not None

    def due(self, step: int) -> bool:
        """Whether to save regularly after `step` steps."""
        retry = self._retry and step % max(1, self._every // RETRIES) == 0
        return step % self._every == 0 or retry

    def poll(self, *, busy: bool, failed: bool) -> None:
        """Finish the save in progress unless any rank is still `busy` and none has `failed`.

        Raises:
            SaveError: too many consecutive saves have failed.
        """
        if self._pending is not None and (failed or not busy):
            self.wait()

    def wait(self) -> None:
        """Finish the save in progress, if there is one."""
        if self._pending is not None:
            save, self._pending = self._pending, None
            began = time.perf_counter()
            self._finish(save, save.join(), began, must=False)

    def save(self, progress: Mapping[str, Any], *, must: bool = False) -> None:
        """Save the engine's state as that of `progress["step"]`; with `must` synchronously, and failure is an error.

        Raises:
            SaveError: it failed and `must`, or too many consecutive saves have failed.
        """
        self.wait()
        if progress["step"] != self.saved:
            self._start(progress, must=must)
        if must:  # the process may end soon, and old checkpoints must not stay
            self._store.wait_for_removal()

    def _start(self, progress: Mapping[str, Any], *, must: bool) -> None:
        save = _Save(self._store.stage(dict(progress)))
        began = time.perf_counter()
        try:
            save.staging.prepare(lambda: save.copy(self._snapshot, self._reusable))
        except SaveError as error:
            self._fail(save, error, must=must)
            return
        if self._config.asynchronous and not must:
            save.start()
            save.blocked += time.perf_counter() - began
            self._pending = save
        else:
            save.write()
            self._finish(save, save.join(), began, must=must)

    def _finish(self, save: _Save, part: WrittenPart, began: float, *, must: bool) -> None:
        try:
            self._store.commit(save.staging, save.staging.collect(part))
        except SaveError as error:
            self._fail(save, error, must=must)
            return
        save.blocked += time.perf_counter() - began
        self._reusable = save.state if self._config.asynchronous else None
        self._failures, self._retry, self.saved = 0, False, save.step
        self._report(save.report())

    def _fail(self, save: _Save, error: SaveError, *, must: bool) -> None:
        self._report(save.report(str(error)))
        self._retry = True
        if save.step // self._every != self._failed_interval:
            self._failures, self._failed_interval = self._failures + 1, save.step // self._every
        if must or self._failures > self._config.failures:
            raise error
        logger.error("ALARM at step %d (failure %d in a row): %s", save.step, self._failures, error)


class _Save:
    """One save, from the copy to the commit."""

    def __init__(self, staging: Staging) -> None:
        self.staging = staging
        self.step = int(staging.progress["step"])
        self.blocked = 0.0
        self.state: Snapshot | None = None
        self.part: WrittenPart | None = None  # None until it is written
        self._began = time.perf_counter()
        self._thread: threading.Thread | None = None

    def copy(self, snapshot: Callable[[Snapshot | None], Snapshot], earlier: Snapshot | None) -> int:
        self.state = snapshot(earlier)
        return self.state.bytes

    def write(self) -> None:
        assert self.state is not None
        self.part = self.staging.write_part(self.state.write)

    def start(self) -> None:
        """Write in a daemon thread, which does not delay the end of the process after an error elsewhere."""
        self._thread = threading.Thread(target=self.write, name=f"checkpoint-{self.step}", daemon=True)
        self._thread.start()

    def join(self) -> WrittenPart:
        """Wait for the thread, if there is one."""
        if self._thread is not None:
            self._thread.join()
        return self.part or WrittenPart({}, "the writing thread has died")

    def report(self, fault: str | None = None) -> SaveReport:
        seconds = time.perf_counter() - self._began
        size = self.state.bytes if self.state is not None else 0
        return SaveReport(self.step, round(seconds, 4), round(self.blocked, 4), size, fault)
