"""`python -m launch CONFIG [--on local|torchrun|deepspeed|slurm] [--cluster FILE] [--dry-run] [key=value ...]`.

Also `python -m launch chain|status|logs|stop`; each has its --help.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from launch import slurm
from launch.cluster import ClusterConfig
from launch.job import LAUNCHERS, Job
from launch.local import run
from launch.submission import Submission, prepare, refuse_alive, shown, start, submit, write
from videomae.command import guarded
from videomae.config import load
from videomae.progress import log_to, logger


def main() -> int:
    log_to(None, console_too=True)
    return launch(sys.argv[1:])


def arguments() -> argparse.ArgumentParser:
    """What `launch` and `chain` share."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--on", choices=LAUNCHERS, default="torchrun")
    parser.add_argument("--cluster", type=Path, help="a file below configs/cluster/")
    parser.add_argument("--nodes", type=int, help="default: the cluster file's, or all of its hosts")
    parser.add_argument("--processes", type=int, help="on each node; default: one a GPU; 1 where there is none")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and scripts, and stop")
    parser.add_argument("--prepare", action="store_true", help="make the run's directory, print the commands, and stop")
    parser.add_argument("--force", action="store_true", help="start although the run seems to be alive")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON, alone")
    return parser


def launch(words: list[str]) -> int:
    """Launch one config."""
    parser = argparse.ArgumentParser(
        prog="python -m launch", description="From a config to processes.", parents=[arguments()]
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_intermixed_args(words)
    code = 0

    def act() -> None:
        nonlocal code
        job = Job.read(given.config, given.overrides)
        submission = prepare(job, on=given.on, cluster=cluster_of(given), processes=given.processes)
        code = _act(submission, given)

    return guarded(act) or code


def cluster_of(given: argparse.Namespace) -> ClusterConfig | None:
    """The cluster's file under the flags, if one was given."""
    if given.cluster is None:
        if given.nodes not in (None, 1):
            raise ValueError(f"--nodes {given.nodes} needs to know them; type --cluster configs/cluster/two_hosts.yaml")
        return None
    cluster = load(ClusterConfig, given.cluster)
    changed = {"nodes": given.nodes, "processes_per_node": given.processes}
    return replace(cluster, **{name: count for name, count in changed.items() if count is not None})


def _act(submission: Submission, given: argparse.Namespace) -> int:
    if given.dry_run:
        print(json.dumps(described(submission), indent=1) if given.json else shown(submission))
        return 0
    finished = refuse_alive(submission, force=given.force)
    if finished:
        logger.info("%s is finished; remove the folder to start it again", submission.place.run)
        return run(submission.plain) if submission.plain else 0  # the stage looks whether its inputs are newer
    if given.prepare:
        write(submission)
        print(json.dumps(described(submission), indent=1) if given.json else shown(submission).split("\n\n# ----")[0])
        return 0
    if submission.on == "slurm" and not slurm.inside(os.environ):
        number = submit(submission)
        say = f"job {number}: python -m launch logs {submission.place.run} -f"
        print(json.dumps({"run": str(submission.place.run), "job": number}) if given.json else say)
        return 0
    return start(submission)


def described(submission: Submission) -> dict[str, object]:
    """A submission for machines to read."""
    return {
        "run": str(submission.place.run),
        "on": submission.on,
        "commands": [command.words for command in submission.commands()],
        "scripts": submission.scripts,
    }


if __name__ == "__main__":
    sys.exit(main())
