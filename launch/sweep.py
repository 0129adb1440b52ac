"""One array of Slurm jobs for the values of one setting: `python -m launch CONFIG --on slurm --sweep seed=0,1,2`.

Each value makes a run of its own below the config's `run`: RUN/seed-0, RUN/seed-1, ... They share one script and one
snapshot of the code, in RUN/launch, and each is watched and stopped as any other run.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch import slurm
from launch.finding import inspect_run
from launch.run_directory import LaunchDir, launch_lock
from launch.slurm_script import job_scripts
from launch.submission import Submission, ensure_fits
from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.run.directory import RunDirectory


@dataclass(frozen=True)
class Sweep:
    """The array, and the runs that are its tasks."""

    array: Submission
    members: tuple[tuple[LaunchDir, Any], ...]  # with their resolved configs


def sweep(submission: Submission, values: str) -> Sweep:
    """`submission` once for each of the `values`, given as KEY=A,B,C; writes nothing.

    Raises:
        UserError: `values` is malformed, or the launcher is not Slurm.
    """
    key, separator, listed = values.partition("=")
    if not separator or submission.on != "slurm":
        raise UserError(f"--sweep takes KEY=A,B,C and needs --on slurm, got {values!r} and {submission.on}")
    members = []
    for value in listed.split(","):
        name = f"{key.rsplit('.', 1)[-1]}-{re.sub(r'[^A-Za-z0-9._-]+', '_', value)}"
        run = str(Path(submission.settings.run) / name)
        job = replace(submission.job, overrides=(*submission.job.overrides, f"{key}={value}", f"run={run}"))
        members.append((LaunchDir(submission.place.root, submission.place.root / run), job.settings()))
    if len({place.run for place, _ in members}) < len(members):
        raise UserError(f"the values of a sweep must differ, got {listed}")
    runs = [place.run for place, _ in members]
    for _, settings in members:
        ensure_fits(settings, (submission.cluster.nodes or 1) * submission.cluster.processes)
    scripts = job_scripts(submission.job.module, submission.place, submission.cluster, members=runs)
    return Sweep(replace(submission, scripts=scripts), tuple(members))


def submit_sweep(planned: Sweep, *, force: bool = False) -> str:
    """Write all records and submit the array; returns its number.

    Raises:
        UserError: one of the runs waits or is running, or is one of other settings.
    """
    with ExitStack() as stack:
        for place in (planned.array.place, *(place for place, _ in planned.members)):
            stack.enter_context(launch_lock(place.run))
        return _submit(planned, force=force)


def _submit(planned: Sweep, *, force: bool) -> str:
    before = inspect_run(planned.array.place.run)
    if before.alive and not force:
        raise UserError(f"{before.message}. If you know that it is dead, type --force")
    for place, settings in planned.members:
        found = inspect_run(place.run)
        if found.alive and not force:
            raise UserError(f"{found.message}. If you know that it is dead, type --force")
        RunDirectory(place.run).ensure_same_config(settings)
        if found.state != "new":
            logger.info("%s", found.message)
    array, module = planned.array, planned.array.job.module
    commit = array.place.make(array.settings, array.scripts)
    for place, settings in planned.members:
        place.make(settings, {}, code=False)
    number = slurm.submit(array.place.record / "job.sh")
    members = tuple(str(place.run) for place, _ in planned.members)
    array.place.note("slurm", module, job=number, commit=commit, members=members)
    for task, (place, _) in enumerate(planned.members):
        place.note("slurm", module, job=f"{number}_{task}", commit=commit)
    return number
