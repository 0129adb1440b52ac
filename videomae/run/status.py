"""The status of a run: `status.json` in the run directory, replaced atomically by rank 0.

Written at the start, at every logged step, and at the end; read by whoever starts, watches or stops the run. It also
counts the starts in a row that ended without a new checkpoint, so that a requeue that gets nowhere stops itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pydantic

from videomae.core.files import write_json
from videomae.core.signals import EXIT_MISTAKE, EXIT_STOPPED

FILE = "status.json"
State = Literal["running", "stopped", "failed", "finished"]


@dataclass(frozen=True)
class LauncherStatus:
    """The launcher of the processes and its job id, if it has one."""

    kind: Literal["local", "torchrun", "deepspeed", "slurm"]
    job: str | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> LauncherStatus:
        """Read the launcher from the environment variables that it sets."""
        if "SLURM_JOB_ID" in environment:
            return cls("slurm", environment["SLURM_JOB_ID"])
        if "TORCHELASTIC_RUN_ID" in environment:
            return cls("torchrun", environment["TORCHELASTIC_RUN_ID"])
        return cls("deepspeed", None) if "CROSS_RANK" in environment else cls("local", None)


@dataclass(frozen=True)
class Status:
    """The status of a run; times are ISO 8601 in UTC."""

    state: State
    step: int
    total: int  # 0 until it is known
    host: str
    pid: int  # of rank 0
    processes: int
    started: str
    updated: str
    launcher: LauncherStatus
    reason: str | None = None  # why it is stopped or failed
    exit_code: int | None = None  # of the processes; launchers make 1 of every code but 0
    starts_without_progress: int = 0


def read_status(path: Path) -> Status | None:
    """Return the status at `path`, or None if it is missing or unreadable."""
    try:
        return pydantic.TypeAdapter(Status).validate_json(path.read_bytes())
    except (OSError, pydantic.ValidationError):
        return None


@dataclass
class StatusFile:
    """Writes the status of one start of a run; only rank 0 uses it."""

    path: Path
    processes: int
    starts_without_progress: int
    environment: Mapping[str, str]
    status: Status = field(init=False)

    def __post_init__(self) -> None:
        now = _now()
        status = Status(
            state="running",
            step=0,
            total=0,
            host=socket.gethostname(),
            pid=os.getpid(),
            processes=self.processes,
            started=now,
            updated=now,
            launcher=LauncherStatus.of(self.environment),
            starts_without_progress=self.starts_without_progress,
        )
        self._write(status)

    def running(self, *, step: int, total: int) -> None:
        self._write(replace(self.status, step=step, total=total))

    def progressed(self) -> None:
        """Record that this start has committed a checkpoint."""
        if self.status.starts_without_progress:
            self._write(replace(self.status, starts_without_progress=0))

    def ended(self, state: State, reason: str | None, *, exit_code: int) -> None:
        """Record how this start ended.

        A finished run is progress. A user error or a stop does not count as a start.
        """
        starts = 0 if state == "finished" else self.status.starts_without_progress
        if exit_code in (EXIT_MISTAKE, EXIT_STOPPED):
            starts = max(0, starts - 1)
        self._write(
            replace(self.status, state=state, reason=reason, exit_code=exit_code, starts_without_progress=starts)
        )

    def _write(self, status: Status) -> None:
        self.status = replace(status, updated=_now())
        write_json(self.path, asdict(self.status))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
