"""`videomae stop RUN [--now] [--wait]`: make a run save and leave, or leave at once, wherever it started."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from launch import slurm
from launch.finding import RunState, active_run_dir, alive, inspect_run, newest_status
from launch.local import STOP, request_stop
from launch.run_directory import read_launch
from launch.ssh import kill_words
from videomae.command import guarded
from videomae.core.errors import UserError
from videomae.core.progress import logger


def main(words: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="videomae stop", description="Make a run save and leave.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--now", action="store_true", help="end it at once; what is newer than its checkpoint is lost")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="return when it has ended; fail if it has not")
    parser.add_argument("--json", action="store_true", help="print what there is of the run then, alone")
    given = parser.parse_args(words)

    def act() -> None:
        done = stop(given.run, now=given.now)
        if given.wait is not None:
            done = wait(given.run, seconds=given.wait).message
        found = inspect_run(given.run)
        sys.stdout.write(json.dumps(asdict(found), indent=1) + "\n" if given.json else f"{done}\n")

    return guarded(act)


def stop(run: Path, *, now: bool = False) -> str:
    """Ask a run to stop, or end it; returns in words what was done.

    Raises:
        UserError: there is no such run, or it cannot be ended from here.
    """
    found = inspect_run(run)
    if found.state == "new":
        raise UserError(f"no run in {run}; `videomae status` lists them")
    if not found.alive:
        return f"nothing to stop: {found.message}"
    launch = read_launch(run)
    if launch is not None and launch.members and not now and found.state == "running":
        return "\n".join(stop(Path(member)) for member in launch.members)
    if found.job is not None:
        (run / "launch").mkdir(exist_ok=True)
        (run / "launch" / "held").touch()  # it shall not come back by itself
        if now or found.state == "waiting":
            slurm.cancel(found.job)
            return f"{run}: Slurm's job {found.job} is cancelled; the same command goes on from its newest checkpoint"
    elif now:
        _end(run, found)
        (active_run_dir(run) / STOP).unlink(missing_ok=True)  # or the next start would stop at once
        return f"{run} is ended; the same command goes on from its newest checkpoint"
    return f"{run} is asked by {request_stop(run)}: it saves after its step and leaves; --now would end it at once"


def wait(run: Path, *, seconds: float) -> RunState:
    """Wait until a run has ended.

    Raises:
        UserError: it has not within `seconds`.
    """
    until = time.monotonic() + seconds
    while (found := inspect_run(run)).alive:
        if time.monotonic() > until:
            raise UserError(f"not ended within {seconds:.0f} s: {found.message}")
        time.sleep(0.5)
    return found


def _end(run: Path, found: RunState) -> None:
    launch, last, here = read_launch(run), newest_status(run), socket.gethostname()
    tops = [(launch.host, launch.pid, launch.submitted)] if launch else []
    tops += [(last.host, last.pid, last.started)] if last and last.state == "running" else []
    for number, host in enumerate(launch.hosts if launch else ()):
        words = [*(launch.ssh if launch else ()), host, shlex.join(kill_words(run / "launch", number))]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        if done.returncode:
            logger.warning("what runs on %s may live on, ssh says: %s", host, done.stderr.strip() or done.returncode)
    mine = [pid for host, pid, since in tops if host == here and alive(pid, since)]
    if not mine and not (launch and launch.hosts):
        raise UserError(f"{run} runs on {found.host}; type this there, or leave out --now, which reaches it by a file")
    for pid in [process for top in mine for process in (*descendants(top), top)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it went with another


def descendants(pid: int) -> list[int]:
    """All processes of this machine that `pid` or one of its children has started, and that have not been orphaned."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(file.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
        children.setdefault(parent, []).append(int(file.parent.name))
    below: list[int] = []
    ahead = [pid]
    while ahead:
        found = children.get(ahead.pop(), [])
        below += found
        ahead += found
    return below
