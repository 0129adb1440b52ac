"""Runs of processes that our signals do not reach: hosts behind ssh, and DeepSpeed's own launcher.

ssh passes no signal on, and DeepSpeed's launcher dies of one without a word to its processes. So a signal to us becomes
a file STOP in the run's directory, which the run looks for; it saves, all end, and so do we. What has not ended after
the deadline is ended by force.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from launch.cluster import Host, SshConfig
from launch.finding import active_run_dir, newest_status
from launch.run_directory import LaunchDir
from videomae.core.progress import logger
from videomae.core.signals import EXIT_STOPPED, SIGNALS
from videomae.run.status import Status

_GRACE = 60.0  # seconds for the other hosts to end by themselves when one has failed
_POLL = 0.2
STOP = "STOP"  # see videomae.core.signals


@dataclass(frozen=True)
class HostProcess:
    """One command that runs here, and how to end by force what it started."""

    words: Sequence[str]
    end: Callable[[], None] = lambda: None
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None  # to run in


def ssh_words(ssh: SshConfig, host: str, command: Sequence[str]) -> list[str]:
    """The words that run `command` on `host`; nothing is asked for, and what a value holds stays in it."""
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={ssh.wait_seconds}", *ssh.options]
    return ["ssh", *options, "--", host, shlex.join(command)]


def ask_to_stop(run: Path) -> Path:
    """Write the file that makes a run save and leave; returns it."""
    file = active_run_dir(run) / STOP
    file.touch()
    return file


def host_processes(place: LaunchDir, ssh: SshConfig, hosts: Sequence[Host]) -> list[HostProcess]:
    """A part for every host, which runs host.sh there."""

    def end(number: int, name: str) -> None:
        subprocess.run(ssh_words(ssh, name, end_words(place.record, number)), capture_output=True, timeout=60)

    return [
        HostProcess(
            ssh_words(ssh, host.name, ["bash", str(place.record / "host.sh"), str(number)]),
            lambda number=number, name=host.name: end(number, name),
        )
        for number, host in enumerate(hosts)
    ]


def end_words(record: Path, number: int) -> list[str]:
    """The words that, on host `number`, end all that host.sh has started there; nothing where that is gone.

    The number of a process is given again: the one that is meant began when the file says.
    """
    file = shlex.quote(str(record / f"host-{number}.pid"))
    find = f'read -r pid start < {file} && [ -n "$start" ]'
    same = '[ "$(sed \'s/.*) //\' "/proc/$pid/stat" | cut -d\' \' -f20)" = "$start" ]'
    # torchrun's processes lead sessions of their own, DeepSpeed's are of the launcher's group.
    end = 'group=$(ps -o pgid= -p "$pid") && { pkill -KILL -P "$pid"; pkill -KILL -g $group; }'
    return ["bash", "-c", f"if {find} && {same}; then {end}; fi 2>/dev/null; true"]


class Stopping:
    """Turns signals to this process into the run's STOP file, and remembers how long ago."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.now = threading.Event()
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.since is not None and number == signal.SIGINT:
            self.now.set()  # asked twice by hand
        elif self.since is None:
            self.since = time.monotonic()


def run(parts: Sequence[HostProcess], place: LaunchDir, *, stop_seconds: float) -> int:
    """Run all parts to their end with their output on ours; returns the first exit code that is not 0.

    A signal asks the run to stop and save; a second ctrl-C, or `stop_seconds` without an end, ends it unsaved.
    """
    stopping, before = Stopping(), newest_status(place.run)
    running = [_start(part) for part in parts]
    failed_at: float | None = None
    first_code = 0  # of the part that failed first, and made the others fail
    asked: Path | None = None
    while any(process.poll() is None for process in running):
        time.sleep(_POLL)
        now = time.monotonic()
        if failed_at is None and any(process.poll() for process in running):
            failed_at, first_code = now, _code(running)
        if stopping.since is not None and asked != active_run_dir(place.run) / STOP:
            # Once, for the run takes the file away as it leaves; but a benchmark may go on to its next row.
            asked = ask_to_stop(place.run)
            logger.info("asked to stop: %s; the run has %.0f s to save and leave", asked, stop_seconds)
        late = stopping.since is not None and now - stopping.since > stop_seconds
        if failed_at is not None and now - failed_at > _GRACE:
            saving = stopping.since is not None or first_code == EXIT_STOPPED or _stopped(place.run, before)
            late = late or not saving or now - failed_at > stop_seconds
        if late or stopping.now.is_set():
            logger.info("ending by force what still runs")
            _end(parts, running)
            (active_run_dir(place.run) / STOP).unlink(missing_ok=True)  # or the next start would stop at once
            break
    for process in running:
        process.wait()
    return first_code or _code(running)


def _stopped(run: Path, before: Status | None) -> bool:
    """Whether the run says that it has stopped since `before`: launchers make another code of the exit code."""
    last = newest_status(run)
    return last is not None and last != before and last.state == "stopped"


def _start(part: HostProcess) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        part.words,
        env={**os.environ, **part.environment},
        cwd=part.folder,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's ctrl-C comes to us alone
    )


def _code(running: Sequence[subprocess.Popen[bytes]]) -> int:
    """The exit code of the first in the list that has failed, as a shell says it, or 0."""
    return next((code if code > 0 else 128 - code for process in running if (code := process.poll())), 0)


def _end(parts: Sequence[HostProcess], running: Sequence[subprocess.Popen[bytes]]) -> None:
    for part in parts:
        try:
            part.end()
        except subprocess.SubprocessError as error:
            logger.warning("%s", error)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, number)
        until = time.monotonic() + 35  # DeepSpeed's launcher gives its processes 30 s
        while time.monotonic() < until and any(process.poll() is None for process in running):
            time.sleep(_POLL)
