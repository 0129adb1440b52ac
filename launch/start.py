"""Launch one run: print, submit or run its commands, as the options of `videomae launch` say."""

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
    describe_submission,
    ensure_not_running,
    format_submission,
    prepare,
    record,
    start,
    submit,
)


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


def launch_run(config: Path, overrides: Sequence[str], options: LaunchOptions) -> int:
    """Launch one config; returns the exit code.

    Raises:
        UserError: the config, the options or their combination cannot be launched.
    """
    job, cluster = Job.read(config, overrides), options.read_cluster()
    submission = prepare(job, launcher=options.launcher, cluster=cluster, processes=options.processes)
    if options.dry_run:
        values = describe_submission(submission)
        click.echo(json.dumps(values, indent=1) if options.as_json else format_submission(submission))
        return 0
    queued = submission.launcher == "slurm" and not slurm.in_allocation(os.environ)
    with launch_lock(submission.run):
        finished = ensure_not_running(submission.run, submission.settings, force=options.force)
        number = submit(submission) if queued and not finished else None
        if not finished and not queued:
            record(submission)
    if finished and submission.local_command is not None:
        # The stage checks that its inputs are unchanged. A run that was not launched here has no recorded config.
        return run_with_signals(job.command(on=options.launcher, processes=options.processes))
    if number is not None:
        run = str(submission.run)
        shown = f"job {number}: videomae logs {shlex.quote(run)} -f"
        click.echo(json.dumps({"run": run, "job": number}) if options.as_json else shown)
    return 0 if finished or queued else start(submission)
