"""`python -m launch CONFIG [--on local|torchrun|deepspeed|slurm] [--cluster FILE] [--dry-run] [key=value ...]`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from launch import slurm
from launch.arguments import cluster_of, shared
from launch.job import Job
from launch.local import run
from launch.run_directory import launch_lock
from launch.submission import Submission, described, ensure_not_running, prepare, record, shown, start, submit, write
from launch.sweep import submit_sweep, sweep
from videomae.command import guarded
from videomae.core.errors import UserError
from videomae.core.progress import logger


def main(words: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m launch",
        description="From a config to processes.",
        epilog="Also: python -m launch chain|status|logs|stop; each has its --help.",
        parents=[shared()],
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--prepare", action="store_true", help="make the run's directory, print the commands, and stop")
    parser.add_argument("--sweep", metavar="KEY=A,B,C", help="an array of Slurm jobs, one for each value")
    given = parser.parse_intermixed_args(words)
    code = 0

    def act() -> None:
        nonlocal code
        job = Job.read(given.config, given.overrides)
        submission = prepare(job, on=given.on, cluster=cluster_of(given), processes=given.processes)
        code = _sweep(submission, given) if given.sweep else _launch(submission, given)

    return guarded(act) or code


def _launch(submission: Submission, given: argparse.Namespace) -> int:
    if given.dry_run:
        _show(submission, as_json=given.json)
        return 0
    queued = submission.on == "slurm" and not slurm.inside(os.environ)
    number = ""
    with launch_lock(submission.place.run):
        finished = ensure_not_running(submission, force=given.force)
        if not finished and given.prepare:
            write(submission)
        elif not finished and queued:
            number = submit(submission)
        elif not finished:
            record(submission)
    if finished:
        logger.info("%s is finished; remove the folder to start it again", submission.place.run)
        if submission.plain is None:
            return 0
        # The stage checks that its inputs are the same. A run that was not launched here has no recorded config.
        return run(submission.job.command(on=given.on, processes=given.processes))
    if given.prepare:
        _show(submission, as_json=given.json)
        return 0
    if not queued:
        return start(submission)
    _report(submission, number, as_json=given.json)
    return 0


def _sweep(submission: Submission, given: argparse.Namespace) -> int:
    if given.prepare:
        raise UserError("--prepare prepares no sweep; type --dry-run instead to see what --sweep would submit")
    planned = sweep(submission, given.sweep)
    if given.dry_run:
        _show(planned.array, as_json=given.json)
    else:
        _report(submission, submit_sweep(planned, force=given.force), as_json=given.json)
    return 0


def _show(submission: Submission, *, as_json: bool) -> None:
    text = json.dumps(described(submission), indent=1) if as_json else shown(submission)
    sys.stdout.write(f"{text}\n")


def _report(submission: Submission, number: str, *, as_json: bool) -> None:
    folder = submission.place.run
    said = f"job {number}: python -m launch logs {shlex.quote(str(folder))} -f"
    sys.stdout.write((json.dumps({"run": str(folder), "job": number}) if as_json else said) + "\n")
