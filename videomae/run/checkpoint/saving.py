"""Saving a running engine: at once or beside the training, and what happens when a save fails.

A failed regular save raises an alarm on every rank and the run goes on: the disk may be full for an hour, and a week of
work must not end for that. It is tried again after a tenth of the interval, and after more than `failures` intervals in
a row without a save the run stops: one that cannot save is not kept alive. The save of a stop, and the last one, raise
at once.

An asynchronous save copies the state, and a thread on each rank writes and hashes it. `busy` and `failed` go into the
vote that all ranks take after a step, and `settle` acts on its outcome: it commits when the last rank is done, and
raises the alarm as soon as one has failed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from videomae.core.progress import logger
from videomae.run.checkpoint.config import CheckpointConfig
from videomae.run.checkpoint.staging import Filled, SaveError, Staging
from videomae.run.checkpoint.store import CheckpointStore

RETRIES = 10  # tries in an interval, after a failed save


class Snapshot(Protocol):
    """A copy of one rank's state on the host."""

    @property
    def bytes(self) -> int:
        """What `write` will write, about."""
        ...

    def write(self, folder: Path) -> None:
        """Write it; talks to no other rank, and may run in another thread."""
        ...


@dataclass(frozen=True)
class SaveReport:
    """What a save took: seconds in all, seconds in which no step could be done, and this rank's bytes."""

    step: int
    seconds: float
    blocked_seconds: float
    bytes: int
    fault: str | None = None


class Saver:
    """Decides when to save, and saves; every method and property is used by all ranks at the same step."""

    def __init__(
        self,
        store: CheckpointStore,
        config: CheckpointConfig,
        *,
        every: int,
        take: Callable[[Any], Snapshot],
        report: Callable[[SaveReport], None] = lambda report: None,
    ) -> None:
        """`take(earlier)` copies the state, into the memory of an earlier copy if one is given."""
        self._store, self._config, self._every = store, config, every
        self._take, self._report = take, report
        self._pending: _Pending | None = None
        self._failures, self._failed_interval = 0, -1  # intervals in a row without a save, and the last of them
        self._retry = False
        self._written: Snapshot | None = None  # its memory serves the next one; only beside the training it is worth it
        self.saved = -1  # the last step that is on the disk

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing."""
        return self._pending is not None and not self._pending.done

    @property
    def failed(self) -> bool:
        """Whether this rank could not write."""
        return self._pending is not None and self._pending.fault is not None

    def due(self, step: int) -> bool:
        """Whether a regular save belongs after `step` steps."""
        again = self._retry and step % max(1, self._every // RETRIES) == 0
        return step % self._every == 0 or again

    @property
    def pending(self) -> bool:
        """Whether a save is under way on some rank, the same on every rank: then `busy` and `failed` need a vote."""
        return self._pending is not None

    def settle(self, *, busy: bool, failed: bool) -> None:
        """Act on what the ranks voted: whether any is `busy`, whether any `failed`.

        Raises:
            SaveError: too many saves in a row have failed.
        """
        if self._pending is not None and (failed or not busy):
            self.wait()

    def wait(self) -> None:
        """Finish the save that is under way, if there is one.

        Raises:
            SaveError: as in `settle`.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            began = time.perf_counter()
            self._finish(pending, pending.join(), began, must=False)

    def save(self, progress: Mapping[str, Any], *, must: bool = False) -> None:
        """Save the engine's state as that of `progress["step"]`; `must` waits for it and forgives nothing.

        Raises:
            SaveError: it failed and `must`, or too many in a row have failed.
        """
        self.wait()
        if progress["step"] == self.saved:
            self._rest(must=must)
            return
        pending = _Pending(self._store.stage(dict(progress)))
        began = time.perf_counter()
        try:
            pending.staging.prepare(lambda: pending.take(self._take, self._written))
        except SaveError as error:
            self._fail(pending, error, must=must)
            return
        if self._config.asynchronous and not must:
            pending.start()
            pending.blocked += time.perf_counter() - began
            self._pending = pending
        else:
            self._finish(pending, pending.fill(), began, must=must)
            self._rest(must=must)

    def _rest(self, *, must: bool) -> None:
        if must:  # the process may end soon, and what is outdated must not stay
            self._store.rest()

    def _finish(self, pending: _Pending, filled: Filled, began: float, *, must: bool) -> None:
        try:
            files = pending.staging.agree(filled)
            self._store.commit(pending.staging, files)
        except SaveError as error:
            self._fail(pending, error, must=must)
            return
        pending.blocked += time.perf_counter() - began
        self._written = pending.snapshot if self._config.asynchronous else None
        self._failures, self._retry, self.saved = 0, False, pending.step
        self._report(pending.report())

    def _fail(self, pending: _Pending, error: SaveError, *, must: bool) -> None:
        self._report(pending.report(str(error)))
        self._retry = True
        if pending.step // self._every != self._failed_interval:
            self._failures, self._failed_interval = self._failures + 1, pending.step // self._every
        if must or self._failures > self._config.failures:
            raise error
        logger.error("ALARM at step %d (failure %d in a row): %s", pending.step, self._failures, error)


class _Pending:
    """One save from the copy to the commit."""

    def __init__(self, staging: Staging) -> None:
        self.staging = staging
        self.blocked = 0.0
        self._began = time.perf_counter()
        self.snapshot: Snapshot | None = None
        self._thread: threading.Thread | None = None
        self._filled: Filled | None = None
        self._bytes = 0

    @property
    def step(self) -> int:
        return int(self.staging.progress["step"])

    @property
    def done(self) -> bool:
        return self._filled is not None

    @property
    def fault(self) -> str | None:
        return None if self._filled is None else self._filled.fault

    def take(self, take: Callable[[Any], Snapshot], earlier: Snapshot | None) -> int:
        """Copy the state; its bytes."""
        self.snapshot = take(earlier)
        self._bytes = self.snapshot.bytes
        return self._bytes

    def fill(self) -> Filled:
        """Write the copy."""
        assert self.snapshot is not None
        self._filled = self.staging.fill(self.snapshot.write)
        return self._filled

    def start(self) -> None:
        """Write in a thread; it dies with the process, so that an error elsewhere is not delayed by it."""
        self._thread = threading.Thread(target=self.fill, name=f"checkpoint-{self.step}", daemon=True)
        self._thread.start()

    def join(self) -> Filled:
        """Wait for the thread."""
        assert self._thread is not None
        self._thread.join()
        return self._filled or Filled({}, "the thread that writes has died")

    def report(self, fault: str | None = None) -> SaveReport:
        seconds = time.perf_counter() - self._began
        return SaveReport(self.step, round(seconds, 4), round(self.blocked, 4), self._bytes, fault)
