"""Start the checks in other processes, and return the results of their rank 0.

torchrun starts them on this machine, ssh on the hosts of a cluster file (one shell per host), one srun under Slurm.
Rank 0 writes a report below the cluster's root, which all machines share.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from launch.cluster import ClusterConfig, Host
from launch.doctor.check import CheckResult, failed
from launch.run_directory import LaunchDir
from launch.script import container_prefix
from launch.slurm import resource_options
from launch.ssh import ssh_words
from videomae.core.config import load
from videomae.core.errors import UserError

_SSH_FAILED = 255
_CHECK_SECONDS = 420.0  # for imports, launching and all checks, beside the timeout of connecting


@dataclass(frozen=True)
class RemoteCheck:
    """What to run: config and overrides, and how long the ranks may take to connect."""

    arguments: tuple[str, ...]
    timeout: float

    def command(self, python: str, report: Path) -> list[str]:
        """The words of one process, whose rank the environment gives."""
        options = ["--timeout", f"{self.timeout:g}", "--report", str(report)]
        return [python, "-m", "launch", "doctor", *self.arguments, *options]

    def run(self, commands: Sequence[Sequence[str]], **environment: str) -> list[tuple[int, str]]:
        """Run all commands at the same time; exit code and output of each, -1 after a timeout."""
        running = [
            subprocess.Popen(
                words,
                env={**environment, **os.environ},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for words in commands
        ]
        outputs = []
        for process in running:
            try:
                output, _ = process.communicate(timeout=_CHECK_SECONDS + self.timeout)
                outputs.append((process.returncode, output))
            except subprocess.TimeoutExpired:
                process.kill()
                outputs.append((-1, process.communicate()[0]))
        return outputs


def check_here(check: RemoteCheck, processes: int | None) -> list[CheckResult]:
    """The results of `processes` ranks on this machine, by default one per GPU.

    Raises:
        UserError: the config is invalid.
        OSError: the processes ended without a report; the message holds their output.
    """
    count = processes or max(1, torch.cuda.device_count())
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "results.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        python, *words = check.command(sys.executable, report)
        threads = str(max(1, (os.cpu_count() or 1) // count))
        return read_report(report, check.run([[python, *launcher, *words]], OMP_NUM_THREADS=threads))


def check_cluster(check: RemoteCheck, file: Path, nodes: int | None, processes: int | None) -> list[CheckResult]:
    """The results of all ranks on the hosts of a cluster file, or on the nodes that Slurm allocates.

    Raises:
        UserError: the cluster file or the config is invalid.
        OSError: rank 0 wrote no report; the message holds the output.
    """
    changed = {"nodes": nodes, "processes_per_node": processes}
    cluster = replace(load(ClusterConfig, file), **{name: count for name, count in changed.items() if count})
    hosts = cluster.select_hosts()
    report = cluster.root_dir / f".doctor-{uuid.uuid4().hex}.json"
    command = check.command(cluster.interpreter, report)
    commands = _ssh_commands(cluster, hosts, command) if hosts else [_srun_command(cluster, command)]
    try:
        outputs = check.run(commands)
        results: list[CheckResult] = []
        for host, (code, output) in zip(hosts, outputs, strict=False):  # no hosts under Slurm
            if code == _SSH_FAILED:
                message = next((line for line in reversed(output.splitlines()) if line.strip()), "no answer")
                remedy = "make this command work: ssh HOST true"
                results += failed(f"{host.name}: {message}", remedy, check="reaching hosts")
        return [*results, *read_report(report, outputs)] if report.is_file() or not results else results
    finally:
        report.unlink(missing_ok=True)


def read_report(report: Path, outputs: Sequence[tuple[int, str]]) -> list[CheckResult]:
    """The results that rank 0 wrote.

    Raises:
        UserError: the ranks refused the config; the message says why.
        OSError: there is no report; the message holds the output.
    """
    if report.is_file():
        return [CheckResult(**values) for values in json.loads(report.read_text())]
    output = "\n".join(text for _, text in outputs)
    mistakes = [line for line in output.splitlines() if line.startswith("error: ")]
    if mistakes:
        raise UserError(mistakes[0].removeprefix("error: "))
    raise OSError(f"no report came back; exit codes {', '.join(str(code) for code, _ in outputs)}:\n{output}")


def _ssh_commands(cluster: ClusterConfig, hosts: Sequence[Host], command: Sequence[str]) -> list[list[str]]:
    """For each host the words that start its processes, with the variables that torchrun would set."""
    first_rank, commands = 0, []
    rendezvous = {
        "MASTER_ADDR": cluster.rendezvous_address(hosts),
        "MASTER_PORT": str(cluster.rendezvous_port(cluster.root_dir)),
        "WORLD_SIZE": str(sum(host.processes for host in hosts)),
    }
    for host in hosts:
        variables = {**rendezvous, "LOCAL_WORLD_SIZE": str(host.processes)}
        lines = [
            *_preparation(cluster),
            *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
            f"for local in $(seq 0 {host.processes - 1}); do",
            f"RANK=$(({first_rank} + local)) LOCAL_RANK=$local {_in_container(cluster)}{shlex.join(command)} &",
            "done",
            "wait",
        ]
        commands.append(ssh_words(cluster.ssh, host.name, ["bash", "-c", "\n".join(lines)]))
        first_rank += host.processes
    return commands


def _srun_command(cluster: ClusterConfig, command: Sequence[str]) -> list[str]:
    """The words of one srun, which waits for nodes or uses those of the current allocation."""
    slurm, container = cluster.slurm, cluster.container
    tasks = (cluster.nodes or 1) * cluster.processes
    chosen = {**resource_options(cluster), "ntasks": tasks, "time": "00:15:00", "job-name": "doctor"}
    if container.kind == "pyxis":
        chosen["container-image"] = container.image
        chosen["container-mounts"] = ",".join((f"{cluster.root_dir}:{cluster.root_dir}", *container.mounts))
    options = [f"--{name}={value}" for name, value in chosen.items()]
    lines = [*_preparation(cluster), f"exec {_in_container(cluster)}{shlex.join(command)}"]
    return ["srun", *options, *slurm.extra, *slurm.srun, "bash", "-c", "\n".join(lines)]


def _preparation(cluster: ClusterConfig) -> list[str]:
    """Shell lines before the processes, as in the scripts of a run."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()]
    return [f"cd {shlex.quote(str(cluster.root_dir))} || exit 1", *cluster.setup, *exports]


def _in_container(cluster: ClusterConfig) -> str:
    return container_prefix(LaunchDir(root=cluster.root_dir, run=cluster.root_dir), cluster)
