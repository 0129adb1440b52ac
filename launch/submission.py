"""A submission: a job with the machines and scripts that run it; prepared, recorded and started."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from launch import local, slurm, ssh
from launch.cluster import ClusterConfig, Host, Launcher, read_cluster
from launch.job import Job, default_processes, ensure_fits
from launch.local import Command
from launch.record import LaunchDir
from launch.run_state import inspect_run, newest_status
from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.core.signals import EXIT_STOPPED
from videomae.run.directory import RunDirectory
from videomae.run.status import Status

_LOCALHOST = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """What launching one config and launching a chain share.

    `cluster` is a file below configs/cluster/; `nodes` and `processes` (per node) replace its numbers. `dry_run` prints
    the commands and scripts. `force` starts a run that seems to be alive.
    """

    launcher: Launcher = "torchrun"
    cluster: Path | None = None
    nodes: int | None = None
    processes: int | None = None
    dry_run: bool = False
    force: bool = False
    as_json: bool = False


@dataclass(frozen=True)
class Submission:
    """One run on its machines. Without a cluster file it is one `local_command` and has no scripts."""

    job: Job
    launcher: Launcher
    settings: Any  # the resolved config
    launch_dir: LaunchDir
    cluster: ClusterConfig
    hosts: tuple[Host, ...] = ()
    scripts: dict[str, str] = field(default_factory=dict)
    local_command: Command | None = None

    @property
    def run(self) -> Path:
        return self.launch_dir.run

    @property
    def uses_pdsh(self) -> bool:
        return self.launcher == "deepspeed" and self.cluster.deepspeed_ssh == "pdsh" and not self.on_this_machine

    @property
    def on_this_machine(self) -> bool:
        """Whether no host needs ssh."""
        return {host.name for host in self.hosts} <= {*_LOCALHOST, socket.gethostname()}

    def commands(self) -> list[Command]:
        """The commands that start the run from here, once its scripts are written.

        Raises:
            UserError: pdsh cannot take the cluster's ssh options.
        """
        record = self.launch_dir.record
        if self.local_command is not None:
            return [self.local_command]
        if self.launcher == "slurm":
            return [Command(slurm.submit_words(record / "job.sh"))]
        if self.uses_pdsh:
            return [ssh.pdsh_command(self.launch_dir, self.cluster, self.hosts)]
        if self.on_this_machine:
            return [Command(["bash", str(record / "host.sh"), "0"])]
        return ssh.host_commands(self.launch_dir, self.cluster.ssh, self.hosts)

    def to_dict(self) -> dict[str, object]:
        """Values for JSON."""
        commands = [command.words for command in self.commands()]
        return {"run": str(self.run), "on": self.launcher, "commands": commands, "scripts": self.scripts}

    def __str__(self) -> str:
        """The commands, then each script below its path."""
        blocks = []
        for command in self.commands():
            variables = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
            blocks.append(" ".join([*variables, shlex.join(command.words)]))
        for name, text in self.scripts.items():
            blocks.append(f"\n# ---- {self.launch_dir.record / name}\n{text}".rstrip())
        return "\n".join(blocks)


def prepare(job: Job, options: LaunchOptions) -> Submission:
    """Resolve everything and write nothing.

    Raises:
        UserError: the config, the cluster or their combination is invalid.
    """
    cluster = read_cluster(options.cluster, nodes=options.nodes, processes=options.processes)
    settings, launcher = job.settings(), options.launcher
    root = (cluster or ClusterConfig()).root_dir
    launch_dir = LaunchDir(root, root / settings.run)
    if cluster is None:
        command = _local_command(job, launch_dir, launcher, options.processes)
        ensure_fits(settings, options.processes or default_processes())
        return Submission(job, launcher, settings, launch_dir, ClusterConfig(), local_command=command)
    if launcher == "slurm":
        ensure_fits(settings, (cluster.nodes or 1) * cluster.processes)
        scripts = slurm.job_scripts(job.module, launch_dir, cluster)
        return Submission(job, launcher, settings, launch_dir, cluster, scripts=scripts)
    hosts = cluster.select_hosts() or (Host("localhost", cluster.processes),)
    processes = sum(host.processes for host in hosts)
    if launcher == "local" and processes > 1:
        raise UserError("--on local runs one process on this machine; type --on torchrun, or --nodes 1 --processes 1")
    ensure_fits(settings, processes)
    submission = Submission(job, launcher, settings, launch_dir, cluster, hosts)
    if submission.uses_pdsh:
        scripts = ssh.rank_scripts(job.module, launch_dir, cluster, hosts=hosts)
    else:
        scripts = ssh.host_scripts(job.module, launch_dir, cluster, hosts=hosts, launcher=launcher)
    return replace(submission, scripts=scripts)


def _local_command(job: Job, launch_dir: LaunchDir, launcher: Launcher, processes: int | None) -> Command:
    """The command that runs the recorded config and code: the originals may be edited while the run is stopped."""
    command = Job(job.module, launch_dir.config).command(on=launcher, processes=processes)
    path = os.pathsep.join([str(launch_dir.code), *filter(None, [os.environ.get("PYTHONPATH")])])
    return replace(command, environment={**command.environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"})


def ensure_not_running(run: Path, settings: Any, *, force: bool = False) -> bool:
    """Check that a run can be started, and log what its directory holds already. Returns whether it is finished.

    Raises:
        UserError: the run is queued or running, or the directory holds a run with other settings.
    """
    found = inspect_run(run)
    if found.alive and not force:
        raise UserError(f"{found.message}. If you know that it is dead, type --force")
    RunDirectory(run).ensure_same_config(settings)
    if found.state != "new":
        logger.info("%s", found.message)
    return found.state == "finished"


def write(submission: Submission) -> None:
    """Write code, config and scripts into the run directory."""
    submission.launch_dir.make(submission.settings, submission.scripts)


def submit(submission: Submission, *, after: Sequence[str] = ()) -> str:
    """Write the record of a Slurm job, submit it and return its id."""
    write(submission)
    job = slurm.submit(submission.launch_dir.record / "job.sh", after=after)
    submission.launch_dir.note("slurm", submission.job.module, job=job)
    return job


def record(submission: Submission) -> None:
    """Write the record of a launch whose processes `start` runs."""
    write(submission)
    remote = not submission.on_this_machine
    submission.launch_dir.note(
        submission.launcher,
        submission.job.module,
        hosts=tuple(host.name for host in submission.hosts) if remote else (),
        ssh=tuple(ssh.ssh_words(submission.cluster.ssh, "HOST", [])[:-2]) if remote else (),
    )


def start(submission: Submission) -> int:
    """Run all processes of a recorded launch to their end, and return the exit code of the run."""
    before = newest_status(submission.run)
    return run_exit_code(_run(submission), submission.run, before)


def run_exit_code(code: int, run: Path, before: Status | None) -> int:
    """The exit code of the run itself where its launcher returned 1 for it; `before` is the status before the start."""
    last = newest_status(run)
    if code == 0 or last is None or last == before or last.state in ("running", "finished"):
        return code
    return EXIT_STOPPED if last.state == "stopped" else (last.exit_code or code)


def _run(submission: Submission) -> int:
    launch_dir, cluster = submission.launch_dir, submission.cluster
    if submission.local_command is not None and submission.launcher != "deepspeed":
        return local.run_with_signals(submission.local_command)
    run = partial(local.run_with_stop_file, run=submission.run, stop_seconds=cluster.stop_seconds)
    if submission.launcher == "slurm":  # in an allocation
        return run([Command(["bash", str(launch_dir.record / "job.sh")])], folder=launch_dir.root)
    if submission.on_this_machine or submission.uses_pdsh:
        return run(submission.commands(), folder=launch_dir.root)
    return run(submission.commands(), kill_remote=partial(ssh.kill_hosts, launch_dir, cluster.ssh, submission.hosts))
