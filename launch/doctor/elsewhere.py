"""Starts the examination on processes elsewhere, and brings back what its rank 0 found.

On this machine by torchrun; on the hosts of a cluster's file by ssh, one shell a host that starts its processes; under
Slurm by one srun. The report comes back through a file below the cluster's root, which all machines share.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from launch.doctor.finding import Finding

SSH_FAILED = 255
CHECKING = 420.0  # seconds that imports, launching and all checks may take, beside the patience of meeting


@dataclass(frozen=True)
class Errand:
    """What to run: the config and overrides, and how long ranks wait for each other."""

    words: tuple[str, ...]
    patience: float

    def command(self, python: str, report: Path) -> list[str]:
        """The examination as one process, its rank told by the environment."""
        told = ["--patience", f"{self.patience:g}", "--report", str(report)]
        return [python, "-m", "launch.doctor", *self.words, *told]


def ask_here(errand: Errand, processes: int | None) -> list[Finding]:
    """The findings of `processes` ranks on this machine, one a GPU by default.

    Raises:
        ValueError: a mistake in the config.
        OSError: the processes ended without a report; their output is in the message.
    """
    count = processes or max(1, torch.cuda.device_count())
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "findings.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        threads = str(max(1, (os.cpu_count() or 1) // count))
        outputs = _run([[*launcher, *errand.command(sys.executable, report)[1:]]], errand, OMP_NUM_THREADS=threads)
        return read_report(report, outputs)


def ask_cluster(errand: Errand, file: Path, nodes: int | None, processes: int | None) -> list[Finding]:
    """The findings of all ranks on the machines of a cluster's file: its hosts, or what Slurm gives.

    Raises:
        ValueError: the file, or the config.
        OSError: no rank 0 reported; what was said is in the message.
    """
    from launch.doctor import reaching  # it knows launching, which takes seconds to import

    cluster, hosts = reaching.read(file, nodes, processes)
    report = cluster.folder / f".doctor-{uuid.uuid4().hex}.json"
    command = errand.command(cluster.interpreter, report)
    commands = reaching.ssh_commands(cluster, hosts, command) if hosts else [reaching.srun_command(cluster, command)]
    names = [host.name for host in hosts] or ["srun"]
    try:
        outputs = _run(commands, errand)
        lost = [
            Finding(
                "reaching hosts", "red", f"{name}: {_last_line(said)}", "see that this command works: ssh HOST true"
            )
            for name, (code, said) in zip(names, outputs, strict=True)
            if code == SSH_FAILED
        ]
        return [*lost, *read_report(report, outputs)] if report.is_file() or not lost else lost
    finally:
        report.unlink(missing_ok=True)


def _run(commands: Sequence[Sequence[str]], errand: Errand, **environment: str) -> list[tuple[int, str]]:
    """Run all commands together; exit code and output of each, -1 for one that had to be ended."""
    together, pipe = subprocess.STDOUT, subprocess.PIPE
    running = [
        subprocess.Popen(words, env={**environment, **os.environ}, stdout=pipe, stderr=together, text=True)
        for words in commands
    ]
    outputs = []
    for process in running:
        try:
            said, _ = process.communicate(timeout=CHECKING + errand.patience)
            outputs.append((process.returncode, said))
        except subprocess.TimeoutExpired:
            process.kill()
            outputs.append((-1, process.communicate()[0]))
    return outputs


def read_report(report: Path, outputs: Sequence[tuple[int, str]]) -> list[Finding]:
    """What rank 0 wrote.

    Raises:
        ValueError, OSError: it wrote nothing; the outputs say why.
    """
    if report.is_file():
        return [Finding(**values) for values in json.loads(report.read_text())]
    said = "\n".join(text for _, text in outputs)
    mistakes = [line for line in said.splitlines() if line.startswith("error: ")]
    if mistakes:
        raise ValueError(mistakes[0].removeprefix("error: "))
    raise OSError(f"no report came back; exit codes {', '.join(str(code) for code, _ in outputs)}:\n{said}")


def _last_line(said: str) -> str:
    return next((line for line in reversed(said.splitlines()) if line.strip()), "no answer")
