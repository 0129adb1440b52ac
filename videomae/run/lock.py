"""Let only one process group own a run directory.

Rank 0 acquires the run before anything in its directory is touched, by linking a complete record to the next number of
RUN/lock/: a filesystem grants a new name to one process alone, whether it has locks or not. Numbers only grow; an owner
that finds a higher number than its own has lost the run.

Whether an owner lives is observed, never inferred from a date. A process of this machine is looked up. The heartbeat of
another machine's process is watched; without one for `LockTimeouts.stale` seconds the owner is dead. So a run resumes
by itself after any crash, if a little later. A new start waits for a previous one that is shutting down: one that was
asked to stop, whose launcher is dead, or that is an earlier start of the same job. Any other living owner keeps the
run, and the new start ends with an error.
"""

from __future__ import annotations

import os
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from videomae.core.errors import UserError
from videomae.core.files import write_atomic
from videomae.core.progress import logger
from videomae.core.signals import Stopped, handle_signals
from videomae.run.liveness import LOCK_FOLDER, LockRecord, LockState, lock_file, newest_lock, read_lock

HEARTBEAT_SECONDS = 5.0
_POLL_SECONDS = 1.0
_HEARTBEATS = 9  # at least so many within the time after which an owner is stale
_UNREADABLE_POLLS = 3  # for a record that is being written at this moment


class RunOwnedError(UserError):
    """Another start of the run is alive."""


@dataclass(frozen=True)
class LockTimeouts:
    """How long other owners are waited for, in seconds."""

    stale: float  # without a heartbeat, after which an owner on another machine is dead
    shutdown: float  # for an owner that is shutting down

    @property
    def heartbeat(self) -> float:
        return min(HEARTBEAT_SECONDS, self.stale / _HEARTBEATS)

    @property
    def poll(self) -> float:
        return min(_POLL_SECONDS, self.heartbeat)

    @property
    def observe(self) -> float:
        """For a living owner on another machine: if its launcher has died, its next heartbeats say so."""
        return 4 * self.heartbeat


@dataclass(frozen=True)
class Clock:
    """The time and how to wait; tests replace it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = Clock()


def acquire(
    run: Path, environment: Mapping[str, str], *, timeouts: LockTimeouts, clock: Clock = SYSTEM_CLOCK
) -> RunLock:
    """Make this process the run's owner; called by rank 0 before anything of the run is touched.

    Raises:
        RunOwnedError: another owner is alive and is not shutting down.
        Stopped: a stop was requested while another owner was waited for.
        OSError: the run's directory cannot be written.
    """
    record = LockRecord.of_this_process(environment)
    watch: _OwnerWatch | None = None
    with handle_signals() as stop:
        while True:
            state = read_lock(run)
            if watch is None or watch.state.number != state.number:
                watch = _OwnerWatch(run, state, record, timeouts, clock)
            if watch.is_free(state) and take(run, state.number + 1, record):
                return RunLock(run, state.number + 1, record, heartbeat=timeouts.heartbeat)
            if stop.reason is not None:
                raise Stopped(f"stopped before {run} was touched: {stop.reason}")
            clock.sleep(timeouts.poll)


def take(run: Path, number: int, record: LockRecord) -> bool:
    """Write `record` under this number; returns whether it is the run's newest, which one process alone achieves.

    Raises:
        OSError: the run's directory cannot be written.
    """
    folder = run / LOCK_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{secrets.token_hex(8)}"
    try:
        write_atomic(draft, record.to_json())
        if not _link(draft, lock_file(run, number)):
            return False
    finally:
        draft.unlink(missing_ok=True)
    if newest_lock(run) > number:  # the folder was listed before others took later numbers
        lock_file(run, number).unlink(missing_ok=True)
        return False
    for earlier in range(number - 1, 0, -1):
        try:
            lock_file(run, earlier).unlink()
        except FileNotFoundError:
            break
    return True


class RunLock:
    """Owns a run until it is released; a thread writes the heartbeat.

    `stop_reason` returns why this start is about to leave, if it is. `on_lost` is called in the thread when another
    start has taken the run because it considered this one dead.
    """

    def __init__(self, run: Path, number: int, record: LockRecord, *, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self._run, self._number, self._record, self._heartbeat = run, number, record, heartbeat
        self._file = lock_file(run, number)
        self.stop_reason: Callable[[], str | None] = lambda: None
        self.on_lost: Callable[[], object] = lambda: None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Leave the run to others."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join(self._heartbeat)  # do not wait for a filesystem that hangs
        try:
            if newest_lock(self._run) == self._number:
                write_atomic(self._file, replace(self._record, released=True).to_json())
        except OSError as error:  # the disk is full
            logger.debug("%s is removed, since it cannot be rewritten: %s", self._file, error)
            with suppress(OSError):
                self._file.unlink()

    def _beat(self) -> None:
        while not self._released.wait(self._heartbeat):
            try:
                if newest_lock(self._run) > self._number:
                    self._lose()
                    return
                self._touch()
            except OSError:
                continue  # until the next heartbeat

    def _lose(self) -> None:
        owner = read_lock(self._run).record
        if owner is None or owner.process != self._record.process:
            logger.critical("another start has taken over %s, since it considered this one dead", self._run)
            self.on_lost()

    def _touch(self) -> None:
        reason = self.stop_reason()
        if reason != self._record.stopping:
            self._record = replace(self._record, stopping=reason)
            with suppress(OSError):  # a full disk still accepts the new time below
                write_atomic(self._file, self._record.to_json())
        os.utime(self._file)


class _OwnerWatch:
    """What a new start has observed of one owner since it first saw its record."""

    def __init__(self, run: Path, state: LockState, record: LockRecord, timeouts: LockTimeouts, clock: Clock) -> None:
        self.state = state
        self._run, self._record, self._timeouts, self._clock = run, record, timeouts, clock
        self._began = clock.now()
        self._polls = -1  # since the last heartbeat; a poll that a filesystem delays counts once
        self._has_beaten = False
        self._message = ""

    def is_free(self, state: LockState) -> bool:
        """Whether nobody owns the run according to `state`, its lock as read now; logs what is waited for.

        Raises:
            RunOwnedError: the owner is alive and keeps the run.
        """
        self._polls += 1
        if state.heartbeat != self.state.heartbeat:
            self.state, self._has_beaten, self._polls = state, True, 0
        owner = state.record
        if owner is None:
            return not state.text or self._polls > _UNREADABLE_POLLS
        alive = state.owner_alive()
        if alive is False or owner.process == self._record.process:
            return True
        if alive is None and self._polls * self._timeouts.poll >= self._timeouts.stale:
            logger.warning("%s, has no heartbeat and counts as dead", self._describe(owner))
            return True
        self._wait_or_refuse(owner, visible=alive is True)
        return False

    def _wait_or_refuse(self, owner: LockRecord, *, visible: bool) -> None:
        reason, waited = self._shutdown_reason(owner), self._clock.now() - self._began
        limit = self._timeouts.shutdown if reason else (0.0 if visible else self._timeouts.observe)
        if waited >= limit and (visible or (self._has_beaten and self._polls == 0)):
            evidence = "it is running" if visible else "its heartbeat is recent"
            late = f", and still there after {waited:.0f} s ({reason})" if reason else ""
            raise RunOwnedError(
                f"{self._describe(owner)}; {evidence}{late}. "
                f"Stop it with `videomae stop {shlex.quote(str(self._run))}`, wait until it has ended, "
                "or type run=PATH for another run beside it"
            )
        if reason:
            self._log(f"{self._describe(owner)}: {reason}; waiting up to {limit:.0f} s until it has left")
        elif not visible:
            self._log(
                f"{self._describe(owner)}, whose processes cannot be seen from here: waiting for a heartbeat, up to "
                f"{self._timeouts.stale:.0f} s; without one it counts as dead and this start continues"
            )

    def _shutdown_reason(self, owner: LockRecord) -> str | None:
        if owner.stopping is not None:
            return f"it is shutting down ({owner.stopping})"
        dead = [launcher.pid for launcher in owner.launchers if launcher.is_alive() is False]
        if dead:
            return f"its launcher, process {dead[0]}, has died, so it saves and leaves"
        return "it is an earlier start of the same job" if self._record.follows(owner) else None

    def _describe(self, owner: LockRecord) -> str:
        job = f", {owner.launcher.kind} job {owner.launcher.job}" if owner.launcher.job else ""
        started = "started" if job else f"started by {owner.launcher.kind}"
        return f"{self._run} is owned by process {owner.process.pid} on {owner.host}{job}, {started} {owner.acquired}"

    def _log(self, message: str) -> None:
        if message != self._message:
            logger.warning("%s", message)
            self._message = message


def _link(draft: Path, target: Path) -> bool:
    """Give `draft` the name `target` as well; returns False if that name exists."""
    try:
        os.link(draft, target)
    except FileExistsError:
        return draft.stat().st_nlink > 1  # linked after all: NFS repeats a request whose answer was lost
    except OSError:  # a filesystem without hard links; the file may be read half written for a moment
        try:
            with target.open("x") as file:
                file.write(draft.read_text())
        except FileExistsError:
            return False
    return True
