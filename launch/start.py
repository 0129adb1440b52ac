"""Launch one run: print, write, submit or run its commands, as the options of `videomae launch` say.

A sweep submits an array of Slurm jobs, one for each value of a setting. Each value makes a run below the `run` of the
config: RUN/seed-0, RUN/seed-1, ... The runs share one script and one snapshot of the code, in RUN/launch; status, logs
and stop treat each like any other run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from launch import slurm
from launch.job import Job, ensure_fits
from launch.local import run_with_signals
from launch.record import LaunchDir, launch_lock
from launch.run_state import inspect_run
from launch.submission import (
    LaunchOptions,
    Submission,
    ensure_not_running,
    prepare,
    record,
    start,
    submit,
    write,
)
from videomae.core.errors import UserError


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
    submission = prepare(Job.read(config, overrides), options)
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
    click.echo(json.dumps(submission.to_dict(), indent=1) if as_json else str(submission))


def _print_job(submission: Submission, job: str, *, as_json: bool) -> None:
    run = str(submission.run)
    click.echo(json.dumps({"run": run, "job": job}) if as_json else f"job {job}: videomae logs {shlex.quote(run)} -f")


@dataclass(frozen=True)
class Sweep:
    """The array, and for each of its tasks the launch directory and resolved config."""

    array: Submission
    members: tuple[tuple[LaunchDir, Any], ...]


def plan_sweep(submission: Submission, values: str) -> Sweep:
    """`submission` once for each of the `values`, given as KEY=A,B,C; writes nothing.

    Raises:
        UserError: `values` is malformed, or the launcher is not Slurm.
    """
    key, separator, listed = values.partition("=")
    if not separator or submission.launcher != "slurm":
        raise UserError(f"--sweep takes KEY=A,B,C and needs --on slurm, got {values!r} and {submission.launcher}")
    cluster, root, members = submission.cluster, submission.launch_dir.root, []
    for value in listed.split(","):
        name = f"{key.rsplit('.', 1)[-1]}-{re.sub(r'[^A-Za-z0-9._-]+', '_', value)}"
        run = str(Path(submission.settings.run) / name)
        job = replace(submission.job, overrides=(*submission.job.overrides, f"{key}={value}", f"run={run}"))
        settings = job.settings()
        ensure_fits(settings, (cluster.nodes or 1) * cluster.processes)
        members.append((LaunchDir(root, root / run), settings))
    runs = [launch_dir.run for launch_dir, _ in members]
    if len(set(runs)) < len(runs):
        raise UserError(f"the values of a sweep must differ, got {listed}")
    scripts = slurm.job_scripts(submission.job.module, submission.launch_dir, cluster, array_runs=runs)
    return Sweep(replace(submission, scripts=scripts), tuple(members))


def submit_sweep(sweep: Sweep, *, force: bool = False) -> str:
    """Write all records, submit the array and return its id.

    Raises:
        UserError: one of the runs is queued or running, or its directory holds a run with other settings.
    """
    array, module = sweep.array, sweep.array.job.module
    with ExitStack() as stack:
        for launch_dir in (array.launch_dir, *(launch_dir for launch_dir, _ in sweep.members)):
            stack.enter_context(launch_lock(launch_dir.run))
        before = inspect_run(array.run)
        if before.alive and not force:
            raise UserError(f"{before.message}. If you know that it is dead, type --force")
        for launch_dir, settings in sweep.members:
            ensure_not_running(launch_dir.run, settings, force=force)
        array.launch_dir.make(array.settings, array.scripts)
        for launch_dir, settings in sweep.members:
            launch_dir.make(settings, {}, code=False)
        job = slurm.submit(array.launch_dir.record / "job.sh")
        members = tuple(str(launch_dir.run) for launch_dir, _ in sweep.members)
        array.launch_dir.note("slurm", module, job=job, members=members)
        for task, (launch_dir, _) in enumerate(sweep.members):
            launch_dir.note("slurm", module, job=f"{job}_{task}")
    return job
