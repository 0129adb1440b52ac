"""One start of a run, from opening its directory to leaving it: who asks it to stop, whether it hangs, how it ended.

Every rank has its attempt. It listens for requests to stop, keeps the watchdog, and on rank 0 writes status.json and
gives the run free at the end; a run that was started several times without getting on is refused.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from videomae.core.ancestry import first_dead
from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.core.signals import (
    EXIT_FAILED,
    EXIT_LIMIT,
    EXIT_MISTAKE,
    EXIT_STOPPED,
    LimitReached,
    Stopped,
    StopRequest,
    handle_signals,
)
from videomae.run.claims import RunLock
from videomae.run.directory import RunDirectory
from videomae.run.health.guard import HealthConfig
from videomae.run.health.watchdog import Watchdog
from videomae.run.status import FILE, State, StatusFile, read_status

STOP_FILE = "STOP"
_LOOKS_A_SECOND = 100  # for the STOP file, over all ranks: a shared filesystem has other work


class RunSession:
    """Open from `with` on; `finished` says that there is nothing to do, and then nothing is watched.

    `owner` is rank 0's hold of the run, which is released at the end.
    """

    stop: StopRequest
    watchdog: Watchdog

    def __init__(
        self,
        title: str,
        run: RunDirectory,
        health: HealthConfig,
        world: World,
        *,
        finished: bool,
        owner: RunLock | None,
    ) -> None:
        self.title, self.run, self.world, self.finished = title, run, world, finished
        self.together = False  # whether all ranks know that they leave, and do so for the same reason
        self._health, self._owner = health, owner
        self._opened = ExitStack()
        self._status: StatusFile | None = None

    def __enter__(self) -> RunSession:
        if self.finished:
            return self
        try:
            self._open()
        except BaseException:
            self._release()
            raise
        return self

    def _open(self) -> None:
        self.world.main_only(self._begin)
        self.stop = self._opened.enter_context(handle_signals())
        if self._owner is not None:
            self._owner.leaving, self._owner.lost = (lambda: self.stop.reason), _end_now
        stacks = self.run.path / "logs" / f"rank-{self.world.rank}.stacks.txt"
        self.watchdog = self._opened.enter_context(
            Watchdog(
                stacks,
                patience=self._health.hang_seconds,
                first=self._health.start_seconds,
                look=_Lookout(self.stop, self.run.path / STOP_FILE, self.world),
                last_words=lambda reason: self._ended("failed", reason, EXIT_FAILED),
            )
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._close(error)
        finally:
            self._release()

    def _close(self, error: BaseException | None) -> None:
        try:
            self._opened.close()
        finally:
            if isinstance(error, Stopped):
                self._ended("stopped", str(error), EXIT_STOPPED)
            elif isinstance(error, LimitReached):
                self._ended("failed", str(error), EXIT_LIMIT)
            elif error is not None:
                code = EXIT_MISTAKE if isinstance(error, UserError) else EXIT_FAILED
                self._ended("failed", f"{type(error).__name__}: {error}", code)
        if self.together or isinstance(error, Stopped | LimitReached):
            self.world.barrier()  # a launcher kills the others when the first leaves: rank 0 has written by now

    def _release(self) -> None:
        if self._owner is not None:
            self._owner.release()

    def at_exit(self, action: Callable[[], object]) -> None:
        """Do `action` when the attempt is left, whatever the reason; the last one that was named comes first."""
        self._opened.callback(action)

    def report_progress(self, step: int, total: int) -> None:
        """The run stands at `step` of `total`; for whoever reads status.json."""
        self._write(lambda status: status.running(step=step, total=total))

    def mark_checkpointed(self) -> None:
        """A checkpoint is committed: this start was not in vain."""
        self._write(lambda status: status.progressed())

    def completed(self) -> None:
        """The run is finished."""
        self._ended("finished", None, 0)

    def stopped(self) -> None:
        """The stop is carried out: remove a STOP file, so that the next start does not stop at once."""
        if self.world.is_main:
            (self.run.path / STOP_FILE).unlink(missing_ok=True)

    def _begin(self) -> None:
        """Refuse a start after too many in vain, and count this one as such until it has saved."""
        before = read_status(self.run.path / FILE)
        in_vain = before.starts_without_progress if before is not None else 0
        limit = self._health.starts_without_progress
        if before is not None and in_vain >= limit:
            raise LimitReached(
                f"{self.run.path}: the last {in_vain} starts ended without a new checkpoint "
                f"(health.starts_without_progress={limit}), so another is not made; the last was {before.state} at "
                f"step {before.step} on {before.host}: {before.reason or 'it was killed or died without a word'}. See "
                f"{self.run.path / 'logs'}; then remove {self.run.path / FILE}, or type "
                f"health.starts_without_progress={in_vain + limit}, and start again"
            )
        self._status = StatusFile(self.run.path / FILE, self.world.size, in_vain + 1, os.environ)

    def _ended(self, state: State, reason: str | None, exit_code: int) -> None:
        self._write(lambda status: status.ended(state, reason, exit_code=exit_code))

    def _write(self, change: Callable[[StatusFile], None]) -> None:
        if self._status is not None:
            try:
                change(self._status)
            except OSError as error:  # a full disk neither ends a run nor hides why it ended
                logger.error("%s could not be written: %s", FILE, error)


def _end_now() -> NoReturn:
    """Leave the run to the start that has taken it: whatever this one still wrote would be in the other's way."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(EXIT_FAILED)


class _Lookout:
    """What the watchdog's thread looks at once a second: the STOP file, and whether the launchers live."""

    def __init__(self, stop: StopRequest, file: Path, world: World) -> None:
        self._stop, self._file = stop, file
        self._every = 1 if world.is_main else max(1, world.size // _LOOKS_A_SECOND)
        self._looks = 0

    def __call__(self) -> None:
        if self._stop.reason is None:
            if self._looks % self._every == 0 and self._there():
                self._stop.ask(f"{self._file} exists")
            dead = first_dead(self._stop.launchers)
            if dead is not None:
                self._stop.ask(f"the launcher {dead.name} (process {dead.pid}) is gone")
        self._looks += 1
        self._stop.interrupt()

    def _there(self) -> bool:
        try:
            return self._file.exists()
        except OSError:  # a filesystem that does not answer is no request
            return False
