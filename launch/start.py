"""`videomae launch CONFIG [--on local|torchrun|deepspeed|slurm] [--cluster FILE] [--dry-run] [key=value ...]`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launch import slurm
from launch.cluster import LAUNCHERS, ClusterConfig
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
from videomae.command import guarded
from videomae.core.config import load
from videomae.core.errors import UserError


def launch_parser() -> argparse.ArgumentParser:
    """The options that launching one config and a chain of them share."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--on", choices=LAUNCHERS, default="torchrun")
    parser.add_argument("--cluster", type=Path, help="a file below configs/cluster/")
    parser.add_argument("--nodes", type=int, help="default: the cluster file's number, or all of its hosts")
    parser.add_argument("--processes", type=int, help="on each node; default: one per GPU, or 1 without GPUs")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and scripts, and exit")
    parser.add_argument("--force", action="store_true", help="start although the run seems to be alive")
    parser.add_argument("--json", action="store_true", help="print the result as JSON only")
    return parser


def read_cluster(given: argparse.Namespace) -> ClusterConfig | None:
    """The cluster file with --nodes and --processes applied, if one was given.

    Raises:
        UserError: several nodes are asked for without a cluster file.
    """
    if given.cluster is None:
        if given.nodes not in (None, 1):
            raise UserError(f"--nodes {given.nodes} needs --cluster FILE, such as configs/cluster/two_hosts.yaml")
        return None
    changed = {"nodes": given.nodes, "processes_per_node": given.processes}
    return replace(load(ClusterConfig, given.cluster), **{name: count for name, count in changed.items() if count})


def main(words: Sequence[str]) -> int:
    """Launch one config or a sweep; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="videomae launch",
        description="Start the processes of a run.",
        epilog="Also: videomae chain|status|logs|stop; each has its --help.",
        parents=[launch_parser()],
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--prepare", action="store_true", help="write the run directory, print the commands, and exit")
    parser.add_argument("--sweep", metavar="KEY=A,B,C", help="an array of Slurm jobs, one for each value")
    given = parser.parse_intermixed_args(words)
    code = 0

    def act() -> None:
        nonlocal code
        job, cluster = Job.read(given.config, given.overrides), read_cluster(given)
        submission = prepare(job, launcher=given.on, cluster=cluster, processes=given.processes)
        code = _sweep(submission, given) if given.sweep else _launch(submission, given)

    return guarded(act) or code


def _launch(submission: Submission, given: argparse.Namespace) -> int:
    if given.dry_run:
        _print_submission(submission, as_json=given.json)
        return 0
    queued = submission.launcher == "slurm" and not slurm.in_allocation(os.environ)
    job = ""
    with launch_lock(submission.run):
        finished = ensure_not_running(submission.run, submission.settings, force=given.force)
        if not finished and given.prepare:
            write(submission)
        elif not finished and queued:
            job = submit(submission)
        elif not finished:
            record(submission)
    if finished and submission.local_command is None:
        return 0
    if finished:
        # The stage checks that its inputs are unchanged. A run that was not launched here has no recorded config.
        return run_with_signals(submission.job.command(on=given.on, processes=given.processes))
    if given.prepare:
        _print_submission(submission, as_json=given.json)
        return 0
    if not queued:
        return start(submission)
    _print_job(submission, job, as_json=given.json)
    return 0


def _sweep(submission: Submission, given: argparse.Namespace) -> int:
    if given.prepare:
        raise UserError("--prepare and --sweep exclude each other; type --dry-run to see what --sweep would submit")
    sweep = plan_sweep(submission, given.sweep)
    if given.dry_run:
        _print_submission(sweep.array, as_json=given.json)
    else:
        _print_job(submission, submit_sweep(sweep, force=given.force), as_json=given.json)
    return 0


def _print_submission(submission: Submission, *, as_json: bool) -> None:
    values = describe_submission(submission)
    text = json.dumps(values, indent=1) if as_json else format_submission(submission)
    sys.stdout.write(f"{text}\n")


def _print_job(submission: Submission, job: str, *, as_json: bool) -> None:
    run = str(submission.run)
    text = f"job {job}: videomae logs {shlex.quote(run)} -f"
    sys.stdout.write((json.dumps({"run": run, "job": job}) if as_json else text) + "\n")
