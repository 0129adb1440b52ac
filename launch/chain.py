"""Run stages in sequence: `videomae chain A.yaml [key=value ...] B.yaml ...`.

Under Slurm all stages are submitted at once, each with an afterok dependency on the one before it; if a stage fails,
Slurm cancels those behind it. Other launchers run them in turn. A finished stage is skipped; a stage that is queued or
running in Slurm already is the dependency of the next one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from launch.job import Job
from launch.record import launch_lock
from launch.run_state import inspect_run
from launch.submission import (
    LaunchOptions,
    Submission,
    ensure_not_running,
    prepare,
    record,
    start,
    submit,
)
from videomae.core.errors import UserError
from videomae.core.progress import logger
from videomae.run.directory import RunDirectory


def launch_chain(words: Sequence[str], options: LaunchOptions) -> int:
    """Launch the stages of `A.yaml key=value B.yaml ...`; returns the exit code.

    Raises:
        UserError: a stage cannot be launched; nothing is submitted then.
    """
    chain = _prepare(words, options)
    if options.dry_run:
        values = [submission.to_dict() for submission in chain]
        text = "\n\n".join(map(str, chain))
        click.echo(json.dumps(values, indent=1) if options.as_json else text)
    elif options.launcher != "slurm":
        return _run(chain, force=options.force)
    elif options.force:
        raise UserError("--force would submit every stage again; for a dead one type `videomae launch CONFIG "
                        "--force`, then the chain without --force")  # fmt: skip
    else:
        with ExitStack() as stack:
            for submission in chain:
                stack.enter_context(launch_lock(submission.run))
            _submit(chain, as_json=options.as_json)
    return 0


def split_stages(words: Sequence[str]) -> list[tuple[Path, list[str]]]:
    """Split `A.yaml run=x B.yaml` into configs and the overrides that follow each.

    Raises:
        UserError: an override precedes the first config.
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


def _prepare(words: Sequence[str], options: LaunchOptions) -> list[Submission]:
    jobs = [Job.read(config, overrides) for config, overrides in split_stages(words)]
    chain = [prepare(job, options) for job in jobs]
    runs = [str(submission.run) for submission in chain]
    if len(set(runs)) < len(runs):
        raise UserError(f"each stage needs a directory of its own, got {', '.join(runs)}; set run=PATH")
    return chain


def _submit(chain: Sequence[Submission], *, as_json: bool) -> None:
    """Check all stages, then submit those that have to run: a mistake in the last one is reported first."""
    found = [_find_job(submission) for submission in chain]
    after: list[str] = []
    rows: list[dict[str, str | None]] = []
    for submission, (finished, job) in zip(chain, found, strict=True):
        note = "already queued" if job else "finished, skipped"
        if not finished and job is None:
            try:
                job, note = submit(submission, after=after), f"after {', '.join(after)}" if after else "first"
            except UserError as error:
                before = ", ".join(f"{row['run']} as job {row['job']}" for row in rows if row["job"])
                raise UserError(f"{error}. {before or 'Nothing'} is queued; the same command resumes from there"
                                ) from error  # fmt: skip
        after = [job] if job else after
        rows.append({"run": str(submission.run), "job": job, "note": note})
    lines = [f"{row['run']}: {'job ' + row['job'] + ', ' if row['job'] else ''}{row['note']}" for row in rows]
    click.echo(json.dumps(rows) if as_json else "\n".join(lines))


def _find_job(submission: Submission) -> tuple[bool, str | None]:
    """Whether a stage is finished, and its job if it is queued or running.

    Raises:
        UserError: it cannot be submitted.
    """
    found = inspect_run(submission.run)
    if found.alive and found.job is not None:
        RunDirectory(submission.run).ensure_same_config(submission.settings)
        return False, found.job
    return ensure_not_running(submission.run, submission.settings), None


def _run(chain: Sequence[Submission], *, force: bool) -> int:
    for submission in chain:  # check all of them before the first, which may take days
        submission.commands()
        RunDirectory(submission.run).ensure_same_config(submission.settings)
    for submission in chain:
        with launch_lock(submission.run):
            finished = ensure_not_running(submission.run, submission.settings, force=force)
            if not finished:
                record(submission)
        if finished:
            continue
        code = start(submission)
        if code:
            logger.info("%s ended with exit code %d; the stages after it are not started", submission.run, code)
            return code
    return 0
