"""A tiny pretraining run of two processes, which the tests of this folder launch, watch and disturb."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import Host, Process, until
from tests.stages import pretrain_arguments
from videomae.run.metrics import read_metrics

LAUNCH = (sys.executable, "-m", "launch")
STEPS = 160
DEADLINE = 600.0  # seconds; a phase takes some ten on two idle cores, and only a hang may reach this under load


@dataclass(frozen=True)
class Run:
    """A run directory, and the commands that start the run on two hosts."""

    path: Path
    shards: Path
    cluster: dict[str, Any]
    overrides: tuple[str, ...] = ()

    def words(self, launcher: str, *more: str | Path, command: str = "launch", **cluster: Any) -> list[str | Path]:
        """The words of the command: `more` follow the config, and `cluster` adds settings to the cluster file."""
        file = self.path.parent / f"{self.path.name}-{launcher}.yaml"
        file.write_text(yaml.safe_dump({**self.cluster, "environment": {"OMP_NUM_THREADS": "1"}, **cluster}))
        settings = two_process_arguments(self.path, self.shards, *self.overrides)
        return [*LAUNCH, command, *settings, *more, "--on", launcher, "--cluster", file]

    def start(self, host: Host, launcher: str, **cluster: Any) -> Process:
        return host.start(*self.words(launcher, **cluster))

    @property
    def step(self) -> int:
        """The last step on disk."""
        lines = read_metrics(self.path / "metrics.jsonl") if (self.path / "metrics.jsonl").exists() else []
        return max((line["step"] for line in lines), default=0)

    def reaches(self, step: int, *, over: Callable[[], bool]) -> None:
        """Wait for a step; fail as soon as the processes are `over`."""

        def there() -> bool:
            assert self.step >= step or not over(), f"over before step {step}\n{self.said()}"
            return self.step >= step

        until(there, seconds=DEADLINE, what=f"step {step}", shown=self.said)

    @property
    def resumed(self) -> int:
        """How often the run has resumed from a checkpoint."""
        log = self.path / "logs" / "rank-0.log"
        return log.read_text().count("resumes at step") if log.exists() else 0

    def said(self) -> str:
        """All output of the run's processes and scripts."""
        files = [path for path in sorted(self.path.glob("logs/*")) if path.is_file()]
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')}" for path in files)


def two_process_arguments(run: Path, shards: Path, *overrides: str) -> list[str]:
    """Config and overrides: four clips a step on each of two processes, under DeepSpeed."""
    settings = (
        "engine={kind: deepspeed, zero_stage: 1, micro_batch: 4}",
        f"schedule.duration={STEPS} steps",
        "checkpoint.every=20 steps",
    )
    return pretrain_arguments(run, shards, *settings, *overrides)
