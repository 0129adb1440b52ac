"""The one door to Slurm's commands: submit, ask, signal, cancel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from videomae.core.errors import UserError

_INTERACTIVE = "4294967290"  # the number of salloc's own step


class SlurmError(UserError):
    """A command of Slurm is missing or refused; the message holds what it said."""


def submit(script: Path, *, after: Sequence[str] = ()) -> str:
    """Submit a script; `after` are jobs that must end well first, or this one is cancelled. Returns the job's number.

    Raises:
        SlurmError: there is no sbatch, or it refuses.
    """
    return _ask(submit_words(script, after=after)).split(";")[0]


def submit_words(script: Path, *, after: Sequence[str] = ()) -> list[str]:
    """The words of the command that `submit` runs."""
    order = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    return ["sbatch", "--parsable", *order, str(script)]


def queued(jobs: Sequence[str]) -> dict[str, str]:
    """The state of each job that is in the queue, such as PENDING, RUNNING (n[1-2]) or PENDING (Dependency).

    Jobs that have left the queue are missing from it. Without squeue, or when it does not answer, nothing is known
    and SlurmError says so.
    """
    if not jobs:
        return {}
    try:
        lines = _ask(
            ["squeue", "--noheader", "--array", f"--jobs={','.join(jobs)}", "--format=%i|%A|%T|%R"]
        ).splitlines()
    except SlurmError as error:
        if "Invalid job id" in str(error):  # said of a single job that is long gone
            return {}
        raise
    found = {}
    for line in lines:
        name, number, state, why = line.split("|", 3)
        for job in {name, number, name.split("_")[0]} & set(jobs):  # the last: a whole array
            if not found.get(job, "PENDING").startswith("PENDING"):
                continue  # one task of the array that runs tells more than one that waits
            found[job] = f"{state} {why if why.startswith('(') else f'({why})'}"
    return found


def ended(job: str) -> str | None:
    """What accounting says of a job that has left the queue, such as FAILED or NODE_FAIL; None where there is none."""
    for words in (
        ["sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={job}"],
        ["scontrol", "--oneliner", "show", "job", job],
    ):
        try:
            said = _ask(words).strip()
        except SlurmError:
            continue
        if words[0] == "sacct" and said:
            return said.splitlines()[-1].split()[0]
        for field in said.split():
            if field.startswith("JobState="):
                return field.removeprefix("JobState=")
    return None


def cancel(job: str, *, signal: str | None = None) -> None:
    """End a job at once, or send its processes a signal.

    Raises:
        SlurmError: Slurm refuses.
    """
    _ask(["scancel", *([f"--signal={signal}"] if signal else []), job])


def inside(environment: Mapping[str, str]) -> bool:
    """Whether this is a shell within an allocation, as salloc gives one; on some clusters it is a step of its own."""
    return "SLURM_JOB_ID" in environment and environment.get("SLURM_STEP_ID", _INTERACTIVE) == _INTERACTIVE


def _ask(words: Sequence[str]) -> str:
    if shutil.which(words[0]) is None:
        raise SlurmError(f"{words[0]} is not on this machine; type this on a login node of the cluster")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]} did not answer within 60 s; look with `sinfo` whether Slurm is up") from None
    if done.returncode:
        raise SlurmError(f"{' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout.strip()
