"""Launch one run: print, write, submit or run its commands, as the options of `videomae launch` say."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from launch import slurm
from launch.cluster import ClusterConfig, Launcher, read_cluster
from launch.job import Job
from launch.local import run_with_signals
from launch.record import launch_lock
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
        return read_cluster(self.cluster, nodes=self.nodes, processes=self.processes)


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
    job = None
    with launch_lock(submission.run):
        finished = ensure_not_running(submission.run, submission.settings, force=options.force)
        if not finished and prepare_only:
            write(submission)
        elif not finished and queued:
            job = submit(submission)
        elif not finished:
            record(submission)
    if finished:
        if submission.local_command is None:
            return 0
        # The stage checks that its inputs are unchanged. A run that was not launched here has no recorded config.
        return run_with_signals(submission.job.command(on=options.launcher, processes=options.processes))
    if prepare_only:
        _print_submission(submission, as_json=options.as_json)
    elif job is not None:
        _print_job(submission, job, as_json=options.as_json)
    else:
        return start(submission)
    return 0


def _print_submission(submission: Submission, *, as_json: bool) -> None:
    values = describe_submission(submission)
    click.echo(json.dumps(values, indent=1) if as_json else format_submission(submission))


def _print_job(submission: Submission, job: str, *, as_json: bool) -> None:
    run = str(submission.run)
    click.echo(json.dumps({"run": run, "job": job}) if as_json else f"job {job}: videomae logs {shlex.quote(run)} -f")
