"""`python -m launch chain A.yaml [key=value ...] B.yaml ... [--on slurm --cluster FILE]`: one stage after another.

Under Slurm all are submitted at once, each behind the one before it by afterok; a stage that fails takes those behind
it out of the queue. Elsewhere they run in turn. A stage that is finished is passed over; one that waits or runs in
Slurm's queue already is what the next one waits for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from launch.arguments import cluster_of, shared
from launch.finding import inspect_run
from launch.job import Job
from launch.run_directory import launch_lock
from launch.submission import Submission, described, ensure_not_running, prepare, record, shown, start, submit
from videomae.command import guarded
from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.run.directory import RunDirectory


def main(words: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m launch chain", description="Stages in turn.", parents=[shared()])
    parser.add_argument("stages", nargs="+", metavar="CONFIG [key=value ...]", help="overrides follow their config")
    given = parser.parse_intermixed_args(words)
    code = 0

    def act() -> None:
        nonlocal code
        cluster = cluster_of(given)
        jobs = [Job.read(config, overrides) for config, overrides in stages(given.stages)]
        chain = [prepare(job, on=given.on, cluster=cluster, processes=given.processes) for job in jobs]
        folders = [submission.place.run for submission in chain]
        if len(set(folders)) < len(folders):
            raise UserError(
                f"each stage needs a directory of its own, got {', '.join(map(str, folders))}; set run=PATH"
            )
        if given.dry_run:
            blocks = [shown(submission) for submission in chain]
            print_json = json.dumps([described(submission) for submission in chain], indent=1)
            sys.stdout.write((print_json if given.json else "\n\n".join(blocks)) + "\n")
        elif given.on == "slurm" and given.force:
            raise UserError(
                "--force would submit every stage again; for a dead one type `python -m launch CONFIG --force`,"
                " then the chain without --force"
            )
        elif given.on == "slurm":
            with ExitStack() as stack:
                for submission in chain:
                    stack.enter_context(launch_lock(submission.place.run))
                _submit(chain, as_json=given.json)
        else:
            code = _run(chain, force=given.force)

    return guarded(act) or code


def stages(words: Sequence[str]) -> list[tuple[Path, list[str]]]:
    """Split `A.yaml run=x B.yaml` into configs and the overrides that follow each.

    Raises:
        UserError: an override stands before the first config.
    """
    found: list[tuple[Path, list[str]]] = []
    for word in words:
        if "=" not in word or Path(word).is_file():
            found.append((Path(word), []))
        elif found:
            found[-1][1].append(word)
        else:
            raise UserError(f"got {word!r} before the first config; overrides follow the config that they change")
    return found


def _submit(chain: Sequence[Submission], *, as_json: bool) -> None:
    """Look at all stages, and only then submit those that have to run: what is wrong with the last is said first."""
    found = [_find(submission) for submission in chain]
    after: list[str] = []
    rows: list[dict[str, str | None]] = []
    for submission, (state, job) in zip(chain, found, strict=True):
        note = "is in the queue already" if job else "is finished and passed over"
        if state == "missing":
            try:
                job, note = submit(submission, after=after), f"after {', '.join(after)}" if after else "first"
            except UserError as error:
                before = ", ".join(f"{row['run']} as job {row['job']}" for row in rows if row["job"])
                raise UserError(
                    f"{error}. {before or 'Nothing'} is in the queue; the same command goes on from there"
                ) from error
        after = [job] if job else after
        rows.append({"run": str(submission.place.run), "job": job, "note": note})
    lines = [
        f"{row['run']}: job {row['job']}, {row['note']}" if row["job"] else f"{row['run']} {row['note']}"
        for row in rows
    ]
    sys.stdout.write((json.dumps(rows) if as_json else "\n".join(lines)) + "\n")


def _find(submission: Submission) -> tuple[Literal["queued", "finished", "missing"], str | None]:
    """What there is of a stage, and its job if it is queued.

    Raises:
        UserError: it cannot be submitted.
    """
    found = inspect_run(submission.place.run)
    if found.alive and found.job is not None:
        RunDirectory(submission.place.run).ensure_same_config(submission.settings)
        return "queued", found.job
    return ("finished" if ensure_not_running(submission) else "missing"), None


def _run(chain: Sequence[Submission], *, force: bool) -> int:
    for submission in chain:  # all of them before the first: it may take days
        submission.commands()
        RunDirectory(submission.place.run).ensure_same_config(submission.settings)
    for submission in chain:
        with launch_lock(submission.place.run):
            finished = ensure_not_running(submission, force=force)
            if not finished:
                record(submission)
        if finished:
            logger.info("%s is finished and passed over", submission.place.run)
            continue
        code = start(submission)
        if code:
            logger.info("%s ended with %d, so what comes after it is not started", submission.place.run, code)
            return code
    return 0
