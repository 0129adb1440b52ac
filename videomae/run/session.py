"""Manage one rank's session of a run: run lock, stop requests, watchdog, status and exit state.

Every rank opens a session, which handles signals and runs the watchdog. On rank 0 the session also writes status.json
and releases the run lock at the end. A run that was started several times without saving a new checkpoint is refused.

inputs.json holds the SHA-256 of the inputs besides the config, such as shard manifests: a run that resumes with other
data than it started with would mix two runs silently.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.core.files import file_sha256, write_json
from videomae.core.processes import first_dead
from videomae.core.progress import log_to, logger
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
from videomae.data.remote.fetch import RemoteFolder, as_url
from videomae.run.config import TrainingConfig
from videomae.run.directory import RunDirectory
from videomae.run.health.watchdog import Watchdog
from videomae.run.lock import LockTimeouts, RunLock, acquire
from videomae.run.status import FILE, State, StatusFile, read_status

SHUTDOWN_TIMEOUT = 30.0  # seconds that a stopping process may take to exit after its last save
_POLLS_PER_SECOND = 100  # polls of the STOP file over all ranks; limits the load on a shared filesystem


def open_run(title: str, config: TrainingConfig, world: World, *, inputs: Sequence[Path]) -> RunSession:
    """Acquire the run lock, create or reopen the run directory and log there; all ranks must call this function.

    Raises:
        RunOwnedError: another live process group owns the run; nothing was changed.
        ConfigError: the directory contains a run with different settings.
        UserError: the run was started with different `inputs`, or it is finished and checkpoint.resume=never.
    """
    lock = _acquire(config, world)
    try:
        finished = _prepare(title, config, world, inputs)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    if finished and lock is not None:
        lock.release()
    return RunSession(title, config, world, finished=finished, lock=lock)


def _acquire(config: TrainingConfig, world: World) -> RunLock | None:
    """Acquire the run lock. Rank 0 holds it; a failure raises on all ranks."""
    health, acquired = config.health, list[RunLock]()
    shutdown = (config.checkpoint.deadline or health.start_seconds) + SHUTDOWN_TIMEOUT
    timeouts = LockTimeouts(stale=health.owner_seconds, shutdown=shutdown)
    world.main_only(lambda: acquired.append(acquire(config.directory.path, os.environ, timeouts=timeouts)))
    return acquired[0] if acquired else None


def _prepare(title: str, config: TrainingConfig, world: World, inputs: Sequence[Path]) -> bool:
    """Create or check the run directory; return whether its run is finished."""
    run = config.directory
    run.prepare(config, world)
    log_to(run.log(world.rank), console_too=world.is_main)
    world.main_only(lambda: check_inputs(run, inputs))
    finished = bool(world.broadcast_object(run.summary.exists()))
    if finished:
        if config.checkpoint.resume == "never":
            raise UserError(f"checkpoint.resume=never, but {run.path} is finished; type run=PATH for a new run")
        if world.is_main:
            logger.info("%s in %s is already finished; remove the directory to start again", title, run.path)
    return finished


def check_inputs(run: RunDirectory, inputs: Sequence[Path]) -> None:
    """Record the `inputs` of a new run; verify them for a run with checkpoints or a finished one.

    An input is a file or a URL. A missing input is recorded as missing: the stage reports what it needs.

    Raises:
        UserError: an input differs from the one that the run started with.
    """
    now = {str(path): _digest(path) for path in inputs}
    file = run.path / "inputs.json"
    if run.begun and file.exists():
        before = json.loads(file.read_text())
        changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
        if changed:
            raise UserError(
                f"{', '.join(changed)} changed since {run.path} began (SHA-256 was {before[changed[0]]}, is "
                f"{now[changed[0]]}), so its result would be of two inputs; put the old one back, give this run its "
                f"own directory with run=PATH, or remove {run.path} to begin again"
            )
    elif not run.summary.exists():
        write_json(file, now)


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None if there is none."""
    url = as_url(path)
    if url is None:
        return file_sha256(path) if path.is_file() else None
    folder, _, name = url.rpartition("/")
    return hashlib.sha256(RemoteFolder(folder).read(name)).hexdigest()


class RunSession:
    """Context manager of one rank's session of a run.

    With `finished`, nothing is left to do and the session opens nothing. `lock` is the run lock on rank 0 and None on
    the other ranks; the session releases it on exit.
    """

    stop: StopRequest
    watchdog: Watchdog

    def __init__(
        self, title: str, config: TrainingConfig, world: World, *, finished: bool, lock: RunLock | None
    ) -> None:
        self.title, self.run, self.world, self.finished = title, config.directory, world, finished
        self.leave_together = False  # whether all ranks exit for the same reason, agreed in a collective
        self._health, self._lock = config.health, lock
        self._resources = ExitStack()
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
        self.world.main_only(self._begin_status)
        self.stop = self._resources.enter_context(handle_signals())
        if self._lock is not None:
            self._lock.stop_reason, self._lock.on_lost = (lambda: self.stop.reason), _exit_now
        self.watchdog = self._resources.enter_context(
            Watchdog(
                self.run.path / "logs" / f"rank-{self.world.rank}.stacks.txt",
                timeout=self._health.hang_seconds,
                startup_timeout=self._health.start_seconds,
                poll=_StopPoller(self.stop, self.run.stop_file, self.world),
                on_hang=lambda reason: self._end_status("failed", reason, EXIT_FAILED),
            )
        )

    def _begin_status(self) -> None:
        """Refuse to start after too many starts without progress; count this start as one until it has saved."""
        before = read_status(self.run.path / FILE)
        starts = before.starts_without_progress if before is not None else 0
        limit = self._health.starts_without_progress
        if before is not None and starts >= limit:
            raise LimitReached(
                f"{self.run.path}: the last {starts} starts ended without a new checkpoint "
                f"(health.starts_without_progress={limit}), so this start is refused. The last one was {before.state} "
                f"at step {before.step} on {before.host}: {before.reason or 'killed, or ended without a message'}. See "
                f"{self.run.path / 'logs'}; then remove {self.run.path / FILE}, or type "
                f"health.starts_without_progress={starts + limit}, and start again"
            )
        self._status = StatusFile(self.run.path / FILE, self.world.size, starts + 1, os.environ)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._close(error)
        finally:
            self._release()

    def _close(self, error: BaseException | None) -> None:
        try:
            self._resources.close()
        finally:
            if isinstance(error, Stopped):
                self._end_status("stopped", str(error), EXIT_STOPPED)
            elif isinstance(error, LimitReached):
                self._end_status("failed", str(error), EXIT_LIMIT)
            elif error is not None:
                code = EXIT_MISTAKE if isinstance(error, UserError) else EXIT_FAILED
                self._end_status("failed", f"{type(error).__name__}: {error}", code)
        if self.leave_together or isinstance(error, Stopped | LimitReached):
            self.world.barrier()  # a launcher kills all ranks once one exits: wait until rank 0 has written

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def at_exit(self, action: Callable[[], object]) -> None:
        """Call `action` when the session ends, for any reason; actions are called in reverse order of registration."""
        self._resources.callback(action)

    def report_progress(self, step: int, total: int) -> None:
        self._update_status(lambda status: status.running(step=step, total=total))

    def mark_checkpointed(self) -> None:
        """Record that this start has committed a checkpoint."""
        self._update_status(lambda status: status.progressed())

    def mark_finished(self) -> None:
        self._end_status("finished", None, 0)

    def clear_stop_file(self) -> None:
        """Remove the STOP file after the stop, so that the next start does not stop immediately."""
        if self.world.is_main:
            self.run.stop_file.unlink(missing_ok=True)

    def _end_status(self, state: State, reason: str | None, exit_code: int) -> None:
        self._update_status(lambda status: status.ended(state, reason, exit_code=exit_code))

    def _update_status(self, change: Callable[[StatusFile], None]) -> None:
        if self._status is not None:
            try:
                change(self._status)
            except OSError as error:  # a full disk must neither end the run nor mask the error that ended it
                logger.error("%s could not be written: %s", FILE, error)


def _exit_now() -> NoReturn:
    """Exit immediately after another process group has taken over the run; further writes would interfere with it."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(EXIT_FAILED)


class _StopPoller:
    """Requests a stop when the STOP file exists or a launcher has died; the watchdog calls it once per second."""

    def __init__(self, stop: StopRequest, file: Path, world: World) -> None:
        self._stop, self._file = stop, file
        self._every = 1 if world.is_main else max(1, world.size // _POLLS_PER_SECOND)
        self._polls = 0

    def __call__(self) -> None:
        if self._stop.reason is None:
            if self._polls % self._every == 0 and self._file_exists():
                self._stop.ask(f"{self._file} exists")
            dead = first_dead(self._stop.launchers)
            if dead is not None:
                self._stop.ask(f"the launcher {dead.name} (process {dead.pid}) is gone")
        self._polls += 1
        self._stop.interrupt()

    def _file_exists(self) -> bool:
        try:
            return self._file.exists()
        except OSError:  # an unavailable filesystem is not a stop request
            return False
