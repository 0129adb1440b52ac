"""Starts the examination on all processes of this machine, and brings back what its rank 0 found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from launch.doctor.finding import Finding

STARTING = 120.0  # seconds that imports and launching may take beside the checks themselves
CHECKING = 300.0


def ask(words: Sequence[str], *, processes: int | None, patience: float) -> list[Finding]:
    """The findings of `processes` ranks here, one a GPU by default; `words` are the config and its overrides.

    Raises:
        OSError: the processes ended without a report; their output is in the message.
    """
    count = processes or max(1, torch.cuda.device_count())
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "findings.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command += ["-m", "launch.doctor", *words, "--patience", str(patience), "--report", str(report)]
        return read_report(command, report, seconds=STARTING + CHECKING + patience, processes=count)


def read_report(command: Sequence[str], report: Path, *, seconds: float, processes: int) -> list[Finding]:
    """Run `command`, which writes `report`."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    done = subprocess.run(
        command,
        env={"OMP_NUM_THREADS": threads, **os.environ},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if not report.is_file():
        mistakes = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if mistakes:
            raise ValueError(mistakes[0].removeprefix("error: "))
        raise OSError(f"the processes ended with {done.returncode} and no report:\n{done.stdout}\n{done.stderr}")
    return [Finding(**values) for values in json.loads(report.read_text())]
