"""A submission: what is to run, on which machines, from which scripts, and its start."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launch import local, remote, slurm
from launch.cluster import ClusterConfig, Host
from launch.finding import inspect_run, newest_status
from launch.host_script import host_scripts, pdsh_words, rank_scripts
from launch.job import Command, Job, Launcher, default_processes
from launch.remote import HostProcess, host_processes, ssh_words
from launch.run_directory import LaunchDir
from launch.slurm_script import job_scripts
from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.core.signals import EXIT_STOPPED
from videomae.run.directory import RunDirectory
from videomae.run.status import Status
from videomae.stage import TrainingConfig

_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Submission:
    """One run on its machines. `scripts` is empty for a plain command of this machine."""

    job: Job
    on: Launcher
    settings: Any  # the resolved config
    place: LaunchDir
    cluster: ClusterConfig
    hosts: tuple[Host, ...] = ()
    scripts: dict[str, str] = field(default_factory=dict)
    plain: Command | None = None

    @property
    def over_pdsh(self) -> bool:
        return self.on == "deepspeed" and self.cluster.deepspeed_ssh == "pdsh" and not self.at_home

    @property
    def at_home(self) -> bool:
        """Whether all processes run on this machine, without ssh."""
        return {host.name for host in self.hosts} <= {*_HERE, socket.gethostname()}

    def commands(self) -> list[Command]:
        """What a person would type here to start it, once the scripts lie in the run's directory."""
        if self.plain is not None:
            return [self.plain]
        if self.on == "slurm":
            return [Command(slurm.submit_words(self.place.record / "job.sh"))]
        if self.over_pdsh:
            return [Command(pdsh_words(self.place, self.cluster, self.hosts), _pdsh_environment(self.cluster))]
        if self.at_home:
            return [Command(["bash", str(self.place.record / "host.sh"), "0"])]
        return [Command(list(part.words)) for part in host_processes(self.place, self.cluster.ssh, self.hosts)]


def prepare(job: Job, *, on: Launcher, cluster: ClusterConfig | None, processes: int | None) -> Submission:
    """Resolve everything and write nothing.

    Raises:
        UserError: the config, the cluster or their combination cannot be used.
    """
    settings = job.settings()
    machines = cluster or ClusterConfig()
    place = LaunchDir(machines.folder, machines.folder / settings.run)
    if cluster is None:
        recorded = replace(job, config=place.config, overrides=())  # the original may change or go before it ends
        plain = recorded.command(on=on, processes=processes)
        path = os.pathsep.join([str(place.code), *filter(None, [os.environ.get("PYTHONPATH")])])
        plain = replace(plain, environment={**plain.environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"})
        ensure_fits(settings, processes or default_processes())
        return Submission(job, on, settings, place, machines, plain=plain)
    if on == "slurm":
        ensure_fits(settings, (cluster.nodes or 1) * cluster.processes)
        return Submission(job, on, settings, place, cluster, scripts=job_scripts(job.module, place, cluster))
    hosts = cluster.machines() or (Host("localhost", cluster.processes),)
    if on == "local" and sum(host.processes for host in hosts) > 1:
        raise UserError("--on local runs one process on this machine; type --on torchrun, or --nodes 1 --processes 1")
    ensure_fits(settings, sum(host.processes for host in hosts))
    submission = Submission(job, on, settings, place, cluster, hosts)
    if submission.over_pdsh:
        return replace(submission, scripts=rank_scripts(job.module, place, cluster, hosts=hosts))
    return replace(submission, scripts=host_scripts(job.module, place, cluster, hosts=hosts, on=on))


def ensure_fits(settings: Any, processes: int) -> None:
    """What the processes would find out themselves, after hours in a queue or days behind another stage.

    Raises:
        UserError: the settings do not go with so many processes.
    """
    if not isinstance(settings, TrainingConfig):
        return  # a benchmark's rows are known once they run
    if processes > 1 and settings.engine.kind == "local":
        raise UserError(
            f"{settings.run}: engine.kind=local runs in one process, got {processes}; type engine.kind=deepspeed"
        )
    settings.engine.split(batch=settings.batch, world_size=processes)


def ensure_not_running(submission: Submission, *, force: bool = False) -> bool:
    """Say what there is of the run already. Returns whether it is finished.

    Raises:
        UserError: the run waits or is running, or is one of other settings.
    """
    found = inspect_run(submission.place.run)
    if found.alive and not force:
        raise UserError(f"{found.message}. If you know that it is dead, type --force")
    RunDirectory(submission.place.run).ensure_same_config(submission.settings)
    if found.state not in ("new", "finished"):
        logger.info("%s", found.message)
    return found.state == "finished"


def write(submission: Submission) -> str | None:
    """Make the run's directory with code, config and scripts; returns the commit of the code."""
    return submission.place.make(submission.settings, submission.scripts)


def submit(submission: Submission, *, after: Sequence[str] = ()) -> str:
    """Write the record of a Slurm job and submit it; returns its number."""
    commit = write(submission)
    job = slurm.submit(submission.place.record / "job.sh", after=after)
    submission.place.note("slurm", submission.job.module, job=job, commit=commit)
    return job


def start(submission: Submission) -> int:
    """Run all processes of a recorded launch to their end, and return the exit code of the run."""
    before = newest_status(submission.place.run)
    return outcome(_run(submission), submission.place.run, before)


def record(submission: Submission) -> None:
    """Write the record of processes that this one starts next."""
    cluster = submission.cluster
    commit = write(submission)
    away = submission.hosts if not submission.at_home else ()
    ssh = tuple(ssh_words(cluster.ssh, "HOST", [])[:-2])
    submission.place.note(
        submission.on,
        submission.job.module,
        commit=commit,
        hosts=tuple(host.name for host in away),
        ssh=ssh if away else (),
    )


def outcome(code: int, run: Path, before: Status | None) -> int:
    """The exit code of the run itself, where its launcher has made 1 of it; `before` is the status before the start."""
    last = newest_status(run)
    if code == 0 or last is None or last == before or last.state in ("running", "finished"):
        return code
    return EXIT_STOPPED if last.state == "stopped" else (last.exit_code or code)


def _run(submission: Submission) -> int:
    place = submission.place
    if submission.plain is not None:
        command = submission.plain
        if submission.on != "deepspeed":
            return local.run(command)
    elif submission.on == "slurm":  # in an allocation that is there
        command = Command(["bash", str(place.record / "job.sh")])
    elif submission.over_pdsh or submission.at_home:
        (command,) = submission.commands()
    else:
        parts = host_processes(place, submission.cluster.ssh, submission.hosts)
        return remote.run(parts, place, stop_seconds=submission.cluster.stop_seconds)
    part = HostProcess(command.words, environment=command.environment, folder=place.root)
    return remote.run([part], place, stop_seconds=submission.cluster.stop_seconds)


def _pdsh_environment(cluster: ClusterConfig) -> dict[str, str]:
    for option in cluster.ssh.options:
        if len(shlex.split(option)) != 1 or shlex.split(option)[0] != option:
            raise UserError(f"pdsh takes ssh's options apart at blanks and quotes, got {option!r}; put it into a file "
                             "for -F, or set deepspeed_ssh: none")  # fmt: skip
    return {"PDSH_SSH_ARGS_APPEND": " ".join(cluster.ssh.options)} if cluster.ssh.options else {}


def shown(submission: Submission) -> str:
    """All that would be written and run, as text: the commands, then each script under its name."""
    blocks = []
    for command in submission.commands():
        settings = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
        blocks.append(" ".join([*settings, shlex.join(command.words)]))
    for name, text in submission.scripts.items():
        blocks.append(f"\n# ---- {submission.place.record / name}\n{text}".rstrip())
    return "\n".join(blocks)


def described(submission: Submission) -> dict[str, object]:
    """The same for machines to read."""
    return {
        "run": str(submission.place.run),
        "on": submission.on,
        "commands": [command.words for command in submission.commands()],
        "scripts": submission.scripts,
    }
