"""Run all checks on this rank, or on ranks that this process starts, and print the table of rank 0.

torchrun starts the ranks on this machine, ssh on the hosts of a cluster file (one shell per host), one srun under
Slurm. Their rank 0 writes its results below the cluster's root, which all machines share. The exit code is 1 if a line
is red.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from launch.cluster import ClusterConfig, Host, read_cluster
from launch.doctor import machine, network, storage
from launch.doctor.check import (
    NETWORK,
    NETWORK_REMEDY,
    CheckResult,
    Context,
    call_within,
    failed,
    run_checks,
    worst_level,
)
from launch.job import default_processes, threads_each
from launch.plan.model import read_config
from launch.record import LaunchDir
from launch.script import container_options, container_prefix
from launch.slurm import resource_options
from launch.ssh import ssh_words
from videomae.command import finish, guarded
from videomae.core.distributed import World, init_distributed, read_world
from videomae.core.errors import UserError
from videomae.core.progress import print_wide

CHECKS = (*machine.CHECKS, *network.CHECKS, *storage.CHECKS)
_STYLES = {"green": "green", "yellow": "yellow", "red": "bold red"}
_SSH_FAILED = 255
_CHECK_SECONDS = 420.0  # for imports, launching and all checks, beside the timeout of connecting


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Where the checks run, and what rank 0 prints.

    `launcher` starts one process per GPU on this machine, `cluster` is a file of other machines. Rank 0 writes its
    results to `report` instead of printing them.
    """

    launcher: str | None = None
    cluster: Path | None = None
    nodes: int | None = None
    processes: int | None = None
    timeout: float = 60.0  # seconds for all ranks to connect
    as_json: bool = False
    report: Path | None = None


def run_doctor(config: Path | None, overrides: Sequence[str], options: DoctorOptions) -> int:
    """Run the checks, and return the exit code. In a world of several, the process ends here and does not return.

    With `config`, its shards, run directory and loader are checked too.
    """
    results: list[CheckResult] = []

    def act() -> None:
        check = _check_ranks if options.launcher or options.cluster else _check_this_rank
        results.extend(check(config, overrides, options))

    return finish(guarded(act) or int(worst_level(results) == "red" and not options.report))


def _check_this_rank(path: Path | None, overrides: Sequence[str], options: DoctorOptions) -> list[CheckResult]:
    """Run the checks on this rank; rank 0 shows or reports the results."""
    config = read_config(path, overrides) if path else None
    world = read_world(os.environ)
    results = _connect(world, options.timeout)
    if results:
        if not world.is_main:
            sys.stderr.write(f"{results[0].message}\n")  # rank 0 shows its table
            return results
        world = World(rank=0, size=1, local_rank=world.local_rank, device=world.device)
    run = config.directory.path if config is not None else Path()
    context = Context(world=world, host=socket.gethostname(), config=config, run=run, timeout=options.timeout)
    results += run_checks(context, CHECKS)
    if world.is_main and options.report:
        options.report.write_text(json.dumps([asdict(result) for result in results]))
    elif world.is_main:
        _show(results, as_json=options.as_json)
    if world.size > 1:
        level, error = call_within(options.timeout, lambda: world.broadcast_object(worst_level(results)))
        if not world.is_main and error is None:  # all ranks end with the same exit code
            return [CheckResult(level=level, message="rank 0's results")]
    return results


def _connect(world: World, timeout: float) -> list[CheckResult]:
    """Connect the ranks; a red line if they do not all appear."""
    if world.size == 1:
        return []
    _, error = call_within(timeout + 5, lambda: init_distributed(world, timeout=timeout))
    where = f"rank {world.rank} ({socket.gethostname()})"
    message = f"{where} cannot connect to all {world.size} ranks: {error}"
    return [] if error is None else failed(message, NETWORK_REMEDY, check=NETWORK)


def _check_ranks(path: Path | None, overrides: Sequence[str], options: DoctorOptions) -> list[CheckResult]:
    """Start the ranks, and show the results of their rank 0.

    Raises:
        UserError: the cluster file or the config is invalid.
        OSError: rank 0 wrote no report; the message holds the output.
    """
    cluster = read_cluster(options.cluster, nodes=options.nodes, processes=options.processes)
    hosts = cluster.select_hosts() if cluster else ()
    root = cluster.root_dir if cluster else None
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=root) as folder:
        report = Path(folder) / "results.json"
        arguments = [*([str(path)] if path else []), *overrides, "--timeout", f"{options.timeout:g}"]
        doctor = ["-m", "launch", "doctor", *arguments, "--report", str(report)]
        if cluster is None:
            commands = [_torchrun_command(options.processes or default_processes(), doctor)]
        else:
            words = [cluster.interpreter, *doctor]
            commands = _ssh_commands(cluster, hosts, words) if hosts else [_srun_command(cluster, words)]
        outputs = _run_together(commands, _CHECK_SECONDS + options.timeout)
        results: list[CheckResult] = []
        for host, (code, output) in zip(hosts, outputs, strict=False):  # no hosts but over ssh
            if code == _SSH_FAILED:
                message = next((line for line in reversed(output.splitlines()) if line.strip()), "no answer")
                remedy = "make this command work: ssh HOST true"
                results += failed(f"{host.name}: {message}", remedy, check="reaching hosts")
        if report.is_file() or not results:
            results += _read_report(report, outputs)
    _show(results, as_json=options.as_json)
    return results


def _run_together(commands: Sequence[Sequence[str]], seconds: float) -> list[tuple[int, str]]:
    """Run all commands at the same time; exit code and output of each, -1 after a timeout."""
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for words in commands
    ]
    outputs = []
    for process in running:
        try:
            output, _ = process.communicate(timeout=seconds)
            outputs.append((process.returncode, output))
        except subprocess.TimeoutExpired:
            process.kill()
            outputs.append((-1, process.communicate()[0]))
    return outputs


def _read_report(report: Path, outputs: Sequence[tuple[int, str]]) -> list[CheckResult]:
    if report.is_file():
        return [CheckResult(**values) for values in json.loads(report.read_text())]
    output = "\n".join(text for _, text in outputs)
    mistakes = [line for line in output.splitlines() if line.startswith("error: ")]
    if mistakes:
        raise UserError(mistakes[0].removeprefix("error: "))
    raise OSError(f"no report came back; exit codes {', '.join(str(code) for code, _ in outputs)}:\n{output}")


def _torchrun_command(count: int, doctor: Sequence[str]) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return ["env", f"OMP_NUM_THREADS={threads_each(count)}", sys.executable, *launcher, *doctor]


def _ssh_commands(cluster: ClusterConfig, hosts: Sequence[Host], words: Sequence[str]) -> list[list[str]]:
    """For each host the words that start its processes, with the variables that torchrun would set."""
    first_rank, commands = 0, []
    rendezvous = {
        "MASTER_ADDR": cluster.rendezvous_address(hosts),
        "MASTER_PORT": str(cluster.rendezvous_port(cluster.root_dir)),
        "WORLD_SIZE": str(sum(host.processes for host in hosts)),
    }
    for host in hosts:
        lines = [
            *_preparation(cluster, {**rendezvous, "LOCAL_WORLD_SIZE": str(host.processes)}),
            f"for local in $(seq 0 {host.processes - 1}); do",
            f"RANK=$(({first_rank} + local)) LOCAL_RANK=$local {_in_container(cluster, words)} &",
            "done",
            "wait",
        ]
        commands.append(ssh_words(cluster.ssh, host.name, ["bash", "-c", "\n".join(lines)]))
        first_rank += host.processes
    return commands


def _srun_command(cluster: ClusterConfig, words: Sequence[str]) -> list[str]:
    """The words of one srun, which waits for nodes or uses those of the current allocation."""
    tasks = (cluster.nodes or 1) * cluster.processes
    chosen = {**resource_options(cluster), "ntasks": tasks, "time": "00:15:00", "job-name": "doctor"}
    options = [*(f"--{name}={value}" for name, value in chosen.items()), *container_options(_folder(cluster), cluster)]
    lines = [*_preparation(cluster, {}), f"exec {_in_container(cluster, words)}"]
    return ["srun", *options, *cluster.slurm.extra, *cluster.slurm.srun, "bash", "-c", "\n".join(lines)]


def _preparation(cluster: ClusterConfig, variables: dict[str, str]) -> list[str]:
    """Shell lines before the processes, as in the scripts of a run."""
    exported = {**cluster.environment, **variables}.items()
    exports = [f"export {name}={shlex.quote(value)}" for name, value in exported]
    return [f"cd {shlex.quote(str(cluster.root_dir))} || exit 1", *cluster.setup, *exports]


def _in_container(cluster: ClusterConfig, words: Sequence[str]) -> str:
    return f"{container_prefix(_folder(cluster), cluster)}{shlex.join(words)}"


def _folder(cluster: ClusterConfig) -> LaunchDir:
    return LaunchDir(root=cluster.root_dir, run=cluster.root_dir)


def _show(results: Sequence[CheckResult], *, as_json: bool) -> None:
    if as_json:
        values = {"level": worst_level(results), "results": [asdict(result) for result in results]}
        sys.stdout.write(json.dumps(values, indent=1) + "\n")
        return
    table = Table(title="videomae doctor", title_justify="left")
    for column in ("check", "", "result", "what to do"):
        table.add_column(column, overflow="fold")
    for result in results:
        level = f"[{_STYLES[result.level]}]{result.level}[/]"
        table.add_row(result.check, level, escape(result.message), escape(result.remedy))
    print_wide(table)
