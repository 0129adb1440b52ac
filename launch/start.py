"""Launch one run: print, write, submit or run its commands, as the options of `videomae launch` say."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch import slurm
from launch.cluster import ClusterConfig, Launcher
from launch.job import Job
from launch.local import run_with_signals
from launch.run_directory import launch_lock
from launch.submission import (
    Submission,
    describe_submission,
    ensure_not_running,
    format_submission,
    prepare,
    record,
    start,
    submit,
    write,
)
from launch.sweep import plan_sweep, submit_sweep
from videomae.core.config import load
from videomae.core.errors import UserError


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

    def read_cluster(self) -> ClusterConfig | None:
        """The cluster file with `nodes` and `processes` applied, if one was given.

        Raises:
            UserError: several nodes are asked for without a cluster file.
        """
        if self.cluster is None:
            if self.nodes not in (None, 1):
                raise UserError(f"--nodes {self.nodes} needs --cluster FILE, such as configs/cluster/two_hosts.yaml")
            return None
        changed = {"nodes": self.nodes, "processes_per_node": self.processes}
        return replace(load(ClusterConfig, self.cluster), **{name: count for name, count in changed.items() if count})


def launch_run(
    config: Path,
    overrides: Sequence[str],
    options: LaunchOptions,
    *,
    prepare_only: bool = False,
    sweep: str | None = None,
) -> int:
    """Launch one config, or a `sweep` such as "seed=0,1,2"; returns the exit code.

    `prepare_only` writes the run directory and prints the commands.

    Raises:
        UserError: the config, the options or their combination cannot be launched.
    """
    job, cluster = Job.read(config, overrides), options.read_cluster()
    submission = prepare(job, launcher=options.launcher, cluster=cluster, processes=options.processes)
    if sweep is None:
        return _launch(submission, options, prepare_only=prepare_only)
    if prepare_only:
        raise UserError("--prepare and --sweep exclude each other; type --dry-run to see what --sweep would submit")
    planned = plan_sweep(submission, sweep)
    if options.dry_run:
        _print_submission(planned.array, as_json=options.as_json)
    else:
        _print_job(submission, submit_sweep(planned, force=options.force), as_json=options.as_json)
    return 0


def _launch(submission: Submission, options: LaunchOptions, *, prepare_only: bool) -> int:
    if options.dry_run:
        _print_submission(submission, as_json=options.as_json)
        return 0
    queued = submission.launcher == "slurm" and not slurm.in_allocation(os.environ)
    job = ""
    with launch_lock(submission.run):
        finished = ensure_not_running(submission.run, submission.settings, force=options.force)
        if not finished and prepare_only:
            write(submission)
        elif not finished and queued:
            job = submit(submission)
        elif not finished:
            record(submission)
    if finished and submission.local_command is None:
        return 0
    if finished:
        # The stage checks that its inputs are unchanged. A run that was not launched here has no recorded config.
        return run_with_signals(submission.job.command(on=options.launcher, processes=options.processes))
    if prepare_only:
        _print_submission(submission, as_json=options.as_json)
        return 0
    if not queued:
        return start(submission)
    _print_job(submission, job, as_json=options.as_json)
    return 0


def _print_submission(submission: Submission, *, as_json: bool) -> None:
    values = describe_submission(submission)
    text = json.dumps(values, indent=1) if as_json else format_submission(submission)
    sys.stdout.write(f"{text}\n")


def _print_job(submission: Submission, job: str, *, as_json: bool) -> None:
    run = str(submission.run)
    text = f"job {job}: videomae logs {shlex.quote(run)} -f"
    sys.stdout.write((json.dumps({"run": run, "job": job}) if as_json else text) + "\n")
