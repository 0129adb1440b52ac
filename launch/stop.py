"""Stop a run after it has saved, or kill it, wherever it was started."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from launch import slurm
from launch.local import request_stop, stop_file
from launch.record import read_launch
from launch.run_state import RunState, active_run_dir, inspect_run
from launch.ssh import kill_words
from videomae.core.errors import UserError
from videomae.core.processes import descendants
from videomae.core.progress import logger
from videomae.run.liveness import read_lock


def stop(run: Path, *, now: bool = False) -> str:
    """Ask a run to stop, or with `now` kill it; return what was done as a sentence.

    Raises:
        UserError: there is no such run, or it cannot be killed from this machine.
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
        (run / "launch" / "held").touch()  # so that it is not requeued
        if now or found.state == "waiting":
            slurm.cancel(found.job)
            return f"{run}: Slurm's job {found.job} is cancelled; the same command resumes from its newest checkpoint"
    elif now:
        _kill(run, found)
        stop_file(run).unlink(missing_ok=True)  # or the next start would stop at once
        return f"{run} is killed; the same command resumes from its newest checkpoint"
    return f"{request_stop(run)} is created: the run saves after its current step and exits; --now kills it at once"


def wait(run: Path, *, seconds: float) -> RunState:
    """Wait until a run has ended.

    Raises:
        UserError: it has not ended within `seconds`.
    """
    until = time.monotonic() + seconds
    while (found := inspect_run(run)).alive:
        if time.monotonic() > until:
            raise UserError(f"not ended within {seconds:.0f} s: {found.message}")
        time.sleep(0.5)
    return found


def _kill(run: Path, found: RunState) -> None:
    """Kill the run's launcher and ranks on this machine, and what the launch started over ssh."""
    launch, owner = read_launch(run), read_lock(active_run_dir(run)).record
    for number, host in enumerate(launch.hosts if launch else ()):
        words = [*(launch.ssh if launch else ()), host, shlex.join(kill_words(run / "launch", number))]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        if done.returncode:
            logger.warning("processes on %s may still run; ssh: %s", host, done.stderr.strip() or done.returncode)
    processes = [launch.process] if launch else []
    processes += [owner.process] if owner and not owner.released else []
    visible = [process.pid for process in processes if process.is_alive()]
    if not visible and not (launch and launch.hosts):
        raise UserError(f"{run} runs on {found.host}; type this there, or leave out --now, which reaches it by a file")
    for pid in [pid for top in visible for pid in (*descendants(top), top)]:
        with suppress(ProcessLookupError):  # it ended with another one
            os.kill(pid, signal.SIGKILL)
