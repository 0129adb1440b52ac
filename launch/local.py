"""Run the processes of a launch to their end, and stop the run when this process is signalled.

A command on this machine receives the signals themselves. ssh passes none on, and DeepSpeed's launcher dies of one
without telling its processes; there, a signal creates the run's STOP file. The run looks for that file, saves a
checkpoint and exits. What still runs after the deadline is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from launch.run_state import active_run_dir, newest_status
from videomae.core.progress import logger
from videomae.core.signals import EXIT_STOPPED, SIGNALS
from videomae.run.directory import RunDirectory
from videomae.run.status import Status

_GRACE = 60.0  # seconds for the other hosts to exit by themselves after one has failed
_POLL = 0.2


@dataclass(frozen=True)
class Command:
    """The words of a command line, and environment variables to set for it."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def run_with_signals(command: Command) -> int:
    """Run `command` to its end, pass signals on to it, and return its exit code."""
    process = subprocess.Popen(command.words, env={**os.environ, **command.environment})
    for number in SIGNALS:
        if number != signal.SIGINT:  # a terminal's ctrl-C reaches the whole process group by itself
            signal.signal(number, lambda received, _: process.send_signal(received))
    while True:
        try:
            return _shell_code(process.wait())
        except KeyboardInterrupt:
            continue  # the child has received it too and is saving


class _StopRequest:
    """Records when this process was first signalled, and whether ctrl-C was repeated."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.repeated = threading.Event()
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.since is not None and number == signal.SIGINT:
            self.repeated.set()
        elif self.since is None:
            self.since = time.monotonic()


def run_with_stop_file(
    commands: Sequence[Command],
    run: Path,
    *,
    stop_seconds: float,
    folder: Path | None = None,
    kill_remote: Callable[[], None] = lambda: None,
) -> int:
    """Run all `commands`, in `folder`, to their end; return the exit code of the first that fails, or 0.

    A signal asks the run to save and exit. A second ctrl-C, or `stop_seconds` without an end, kills all processes:
    first those on other hosts by `kill_remote`, then those of this machine.
    """
    request, before = _StopRequest(), newest_status(run)
    processes = [_start(command, folder) for command in commands]
    failed_at: float | None = None
    first_code = 0  # of the command that failed first, and made the others fail
    requested: Path | None = None
    while any(process.poll() is None for process in processes):
        time.sleep(_POLL)
        now = time.monotonic()
        if failed_at is None and any(process.poll() for process in processes):
            failed_at, first_code = now, _first_failure(processes)
        if request.since is not None and requested != stop_file(run):
            # Once, since the run removes the file as it exits; but a benchmark may have started its next row.
            requested = request_stop(run)
            logger.info("stop requested by %s; the run has %.0f s to save and exit", requested, stop_seconds)
        late = request.since is not None and now - request.since > stop_seconds
        if failed_at is not None and now - failed_at > _GRACE:
            saving = request.since is not None or first_code == EXIT_STOPPED or _has_stopped(run, before)
            late = late or not saving or now - failed_at > stop_seconds
        if late or request.repeated.is_set():
            logger.info("killing the processes that still run")
            kill_remote()
            _kill(processes)
            stop_file(run).unlink(missing_ok=True)  # or the next start would stop at once
            break
    for process in processes:
        process.wait()
    return first_code or _first_failure(processes)


def stop_file(run: Path) -> Path:
    return RunDirectory(active_run_dir(run)).stop_file


def request_stop(run: Path) -> Path:
    """Create the file that makes a run save and exit; return its path."""
    file = stop_file(run)
    file.touch()
    return file


def _has_stopped(run: Path, before: Status | None) -> bool:
    """Whether the run reports that it has stopped since `before`; launchers replace the exit code by their own."""
    last = newest_status(run)
    return last is not None and last != before and last.state == "stopped"


def _start(command: Command, folder: Path | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command.words,
        env={**os.environ, **command.environment},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's ctrl-C reaches this process only
    )


def _shell_code(code: int) -> int:
    """An exit code as a shell reports it: 128 + N after signal N."""
    return code if code >= 0 else 128 - code


def _first_failure(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    return next((_shell_code(code) for process in processes if (code := process.poll())), 0)


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, number)
        deadline = time.monotonic() + 35  # DeepSpeed's launcher gives its processes 30 s
        while time.monotonic() < deadline and any(process.poll() is None for process in processes):
            time.sleep(_POLL)
