"""Submit an array of Slurm jobs, one for each value of a setting: `videomae launch CONFIG --sweep seed=0,1,2`.

Each value makes a run below the config's `run`: RUN/seed-0, RUN/seed-1, ... The runs share one script and one snapshot
of the code, in RUN/launch; status, logs and stop treat each like any other run.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch import slurm
from launch.job import ensure_fits
from launch.record import LaunchDir, launch_lock
from launch.run_state import inspect_run
from launch.submission import Submission, ensure_not_running
from videomae.core.errors import UserError


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
        commit = array.launch_dir.make(array.settings, array.scripts)
        for launch_dir, settings in sweep.members:
            launch_dir.make(settings, {}, code=False)
        job = slurm.submit(array.launch_dir.record / "job.sh")
        members = tuple(str(launch_dir.run) for launch_dir, _ in sweep.members)
        array.launch_dir.note("slurm", module, job=job, commit=commit, members=members)
        for task, (launch_dir, _) in enumerate(sweep.members):
            launch_dir.note("slurm", module, job=f"{job}_{task}", commit=commit)
    return job
