"""A faulty run as a person's launcher would start it, and whatever is left of it in the process table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from launch.cluster import Launcher
from launch.job import Job
from tests.processes import ROOT
from tests.stages import finetune_settings, pretrain_arguments

MARK = "VIDEOMAE_TEST_RUN"
PATIENCE = 500.0  # seconds for what takes ten on an idle machine; only a hang may reach it


@dataclass(frozen=True)
class Started:
    """A launcher and, below it, the processes of a run; all of them carry a mark in their environment."""

    run: Path
    process: subprocess.Popen[str]
    log: Path
    mark: str = field(repr=False)

    def wait_until(self, come: Callable[[], bool], *, alive: bool = True) -> None:
        """Wait for something; with `alive` fail at once when the launcher has ended before it came."""
        ends = time.monotonic() + PATIENCE
        while not come():
            assert time.monotonic() < ends, self.said
            assert not alive or self.process.poll() is None or come(), self.said
            time.sleep(0.05)

    def wait_for(self, phase: str, rank: int = 0) -> None:
        """Wait until the rank has entered the phase (see faulty.py)."""
        self.wait_until((self.run / f"at-{phase}-{rank}").exists)

    def signal(self, number: signal.Signals) -> int:
        """Signal the launcher alone; its exit code."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for the launcher, and for all that it left; its exit code."""
        code = self.process.wait(PATIENCE)
        self.wait_until(lambda: not self.left(), alive=False)
        return code

    def left(self) -> list[str]:
        """Command lines of the processes that carry the mark and are no zombies."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and self.mark.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def kill(self) -> None:
        """End whatever is left, so that one failure does not slow down other tests."""
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and self.mark.encode() in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
            except OSError:
                continue
        self.process.wait()

    @property
    def said(self) -> str:
        return f"{self.left()}\n{self.log.read_text()}"


def finetune(run: Path, shards: Path, *overrides: str) -> tuple[str, ...]:
    """Words of a tiny fine-tuning run, from its stage on."""
    file = run.parent / f"{run.name}.yaml"
    file.write_text(yaml.safe_dump(finetune_settings(run, shards)))
    return ("finetune", str(file), f"run={run}", *overrides)


def pretrain(run: Path, shards: Path, *overrides: str) -> tuple[str, ...]:
    """Words of a tiny pretraining run, from its stage on."""
    return ("pretrain", *pretrain_arguments(run, shards, *overrides))


def start(run: Path, words: tuple[str, ...], *, on: Launcher, **faults: Any) -> Started:
    """Start the run, with two processes where the launcher can."""
    stage, *rest = words
    processes = 1 if on == "local" else 2
    command = Job("tests.faults.faulty", Path(stage), tuple(rest)).command(on=on, processes=processes)
    mark = uuid.uuid4().hex
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FAULTS": json.dumps(faults), MARK: mark}
    for marker in run.glob("at-*"):
        marker.unlink()
    log = run.with_name(f"{run.name}-{mark[:6]}.log")
    with log.open("w") as file:
        process = subprocess.Popen(
            command.words,
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # as from a terminal of its own
        )
    return Started(run, process, log, mark)
