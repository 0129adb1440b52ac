"""The report on a run from its directory: running, stopped, failed or finished, here or on another host.

Any file may be missing: a run that has just started has no metrics yet.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videomae.core.errors import UserError
from videomae.run import status
from videomae.run.directory import RunDirectory
from videomae.run.liveness import LockState, read_lock
from videomae.run.metrics.log import Follower, Line, count_lines

RECENT = 20  # lines, for the time left


@dataclass
class RunReport:
    """A snapshot of a run."""

    folder: Path
    status: status.Status | None
    finished: bool
    total: int | None  # steps
    quarantined: int
    checkpoint: Path | None  # the newest
    checkpoint_age: float | None  # seconds
    lock: LockState
    lines: dict[str, list[Line]] = field(default_factory=dict)  # by kind

    @property
    def state(self) -> str:
        """running, stopped, failed, finished, or unknown where no status was written."""
        if self.finished:
            return "finished"
        return self.status.state if self.status is not None else "unknown"

    @property
    def stale(self) -> bool:
        """Whether the status says running, but the process has ended or its heartbeat is too old."""
        return self.state == "running" and self.lock.record is not None and not self.lock.is_alive()

    @property
    def train(self) -> list[Line]:
        """Metric lines of kind `train`."""
        return self.lines.get("train", [])

    @property
    def latest(self) -> Line:
        """The last of them, or nothing."""
        return self.train[-1] if self.train else {}

    @property
    def step(self) -> int:
        return int(self.latest.get("step", 0))

    @property
    def skipped(self) -> int:
        return sum(line.get("skipped", 0) for line in self.train)

    @property
    def step_seconds(self) -> float | None:
        """Recent seconds per step, including the share of evaluations and saves."""
        recent = self.train[-RECENT:]
        steps = recent[-1]["step"] - recent[0]["step"] if len(recent) > 1 else 0
        if steps <= 0:
            return self.latest.get("step_seconds")
        parts = ("seconds", "save_seconds", "evaluation_seconds")
        return sum(line.get(name, 0.0) for line in recent[1:] for name in parts) / steps

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end of training at the recent speed; None if not running or the speed is unknown."""
        if self.state not in ("running", "unknown") or self.total is None or not self.step_seconds:
            return None
        return (self.total - self.step) * self.step_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with the latest line of each kind."""
        newest, age = self.checkpoint, self.checkpoint_age
        return {
            "run": str(self.folder),
            "state": self.state,
            "stale": self.stale,
            "step": self.step,
            "total": self.total,
            "seconds_left": self.seconds_left,
            "reason": self.status.reason if self.status else None,
            "skipped": self.skipped,
            "quarantined": self.quarantined,
            "checkpoint": {"name": newest.name, "age_seconds": age} if newest is not None else None,
            "rollbacks": len(self.lines.get("rollback", [])),
            "latest": {kind: lines[-1] for kind, lines in self.lines.items() if lines},
        }


class RunReader:
    """Reads a run directory repeatedly, and of metrics.jsonl only the new lines.

    Raises:
        UserError: there is no run at `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._run = RunDirectory(folder)
        if not (self._run.config.exists() or self._run.metrics.exists()):
            raise UserError(f"no run at {folder}: neither config.yaml nor metrics.jsonl; type the directory of a run")
        self._follower = Follower(self._run.metrics)
        self._lines: dict[str, list[Line]] = defaultdict(list)

    def read(self) -> RunReport:
        again, new = self._follower.new()
        if again:
            self._lines.clear()
        for line in new:
            self._lines[str(line.get("kind"))].append(line)
        found = status.read_status(self._run.path / status.FILE)
        newest = max(self._run.checkpoints.glob("step-*"), default=None, key=lambda path: path.name)
        return RunReport(
            folder=self._run.path,
            status=found,
            finished=self._run.summary.exists(),
            total=found.total if found is not None and found.total else None,
            quarantined=count_lines(self._run.quarantine),
            checkpoint=newest,
            checkpoint_age=_age(newest) if newest else None,
            lock=read_lock(self._run.path),
            lines=dict(self._lines),
        )


def _age(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return math.nan
