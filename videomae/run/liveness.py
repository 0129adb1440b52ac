"""Tell whether a run is alive, where and since when, from the lock record in its directory.

RUN/lock/N.json says which process group owns the run: rank 0's process, its launchers and its job. The record with the
highest number counts. Its owner touches it every few seconds (the heartbeat) and marks it when it leaves. A process of
this machine is looked up in /proc; one of another machine or container is judged by its heartbeat.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pydantic

from videomae.core.processes import ProcessId, find_launchers
from videomae.run.status import LauncherStatus

LOCK_FOLDER = "lock"
STALE_SECONDS = 45.0  # without a heartbeat, after which a process that cannot be seen counts as dead
_RESTART_COUNTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


@dataclass(frozen=True)
class LockRecord:
    """The owner of a run; `stopping` is the reason for which it is about to leave, if it is."""

    host: str
    process: ProcessId  # rank 0
    launchers: tuple[ProcessId, ...]  # above it, nearest first
    launcher: LauncherStatus
    restarts: tuple[int, ...]  # of the job, as Slurm and torchrun count them
    acquired: str  # ISO 8601, UTC; for people, since clocks of machines differ
    stopping: str | None = None
    released: bool = False

    @classmethod
    def of_this_process(cls, environment: Mapping[str, str]) -> LockRecord:
        """The record of the calling process."""
        return cls(
            host=socket.gethostname(),
            process=ProcessId.current(),
            launchers=tuple(filter(None, (ProcessId.of(launcher.pid) for launcher in find_launchers()))),
            launcher=LauncherStatus.of(environment),
            restarts=tuple(_count(environment.get(name)) for name in _RESTART_COUNTS),
            acquired=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def from_json(cls, text: str) -> LockRecord | None:
        """The record in `text`, or None if it holds none."""
        try:
            return pydantic.TypeAdapter(cls).validate_json(text)
        except pydantic.ValidationError:
            return None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def follows(self, other: LockRecord) -> bool:
        """Whether this is a later start of the other's job, or has a launcher in common with it."""
        same_job = self.launcher == other.launcher and self.launcher.job not in (None, "none")
        return (same_job and self.restarts > other.restarts) or not set(self.launchers).isdisjoint(other.launchers)


@dataclass(frozen=True)
class LockState:
    """The newest lock record of a run as it was read; number 0 and no record if the run never had an owner."""

    number: int = 0
    record: LockRecord | None = None  # None also for a record that cannot be parsed
    text: str = ""
    touched_ns: int = 0

    @property
    def heartbeat(self) -> tuple[int, str]:
        """Changes with every heartbeat; compare two of them instead of clocks."""
        return self.touched_ns, self.text

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the last heartbeat, by this machine's clock."""
        return max(0.0, time.time() - self.touched_ns / 1e9)

    def owner_alive(self) -> bool | None:
        """Whether the owner's process runs; None if it cannot be seen from here. Needs no clock."""
        if self.record is None or self.record.released:
            return False
        return self.record.process.is_alive()

    def is_alive(self) -> bool:
        """As `owner_alive`; a process that cannot be seen is alive if its heartbeat is younger than STALE_SECONDS."""
        alive = self.owner_alive()
        return self.heartbeat_age < STALE_SECONDS if alive is None else alive


def read_lock(run: Path) -> LockState:
    """Read who owns the run, or owned it last."""
    number = newest_lock(run)
    if not number:
        return LockState()
    try:
        with lock_file(run, number).open() as file:  # opening refreshes NFS's cached attributes, stat() does not
            text, touched_ns = file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:  # a newer record has just replaced it
        return LockState(number)
    return LockState(number, LockRecord.from_json(text), text, touched_ns)


def newest_lock(run: Path) -> int:
    """The highest number of a lock record, 0 if there is none."""
    names = (file.stem for file in (run / LOCK_FOLDER).glob("*.json"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def lock_file(run: Path, number: int) -> Path:
    return run / LOCK_FOLDER / f"{number}.json"


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0
