"""Identify processes, find the launchers above this one and the processes below another.

The system reuses process ids, so a process is identified by its machine, its id and its start time. These are read
from Linux's /proc, and hold within one pid namespace of one boot of one machine; hostnames do not identify a machine,
since containers share them.

`deepspeed` dies at a SIGTERM without stopping the processes that it started, and so does any launcher at a SIGKILL.
Their orphans would train on, on GPUs that a scheduler believes to be free. So each process checks whether the chain of
launchers above it is intact. A parent that is no launcher, such as a shell whose user logs out, may end.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PARENT, _START_TIME = 1, 19  # indices into `stat_fields`
_ENDED = ("Z", "X")  # states of a process whose parent has not collected its exit code yet
_LAUNCHERS = {
    "torchrun",
    "torch.distributed.run",
    "torch.distributed.launch",
    "deepspeed",
    "deepspeed.launcher.launch",
    "deepspeed.launcher.runner",
    "launch",
    "videomae",
}


@dataclass(frozen=True)
class ProcessId:
    """The identity of one process; `machine` is empty if unknown, `start` counts clock ticks since the boot."""

    machine: str
    pid: int
    start: int

    @classmethod
    def current(cls) -> ProcessId:
        return cls.of(os.getpid()) or cls("", os.getpid(), 0)

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process of this machine that has the id now; None if there is none, or /proc does not show it."""
        fields = stat_fields(pid)
        return cls(machine_id(), pid, int(fields[_START_TIME])) if fields else None

    def is_alive(self) -> bool | None:
        """Whether it runs; None if that cannot be seen from here, as for a process of another machine."""
        if not self.machine or self.machine != machine_id():
            return None
        fields = stat_fields(self.pid)
        if fields:
            return fields[0] not in _ENDED and int(fields[_START_TIME]) == self.start
        return None if _is_hidden(self.pid) else False


@dataclass(frozen=True)
class Launcher:
    """A launcher above this process; `child` is the process below it in the chain."""

    pid: int
    child: int
    name: str


def find_launchers() -> tuple[Launcher, ...]:
    """The unbroken chain of launchers above this process, nearest first; empty if its parent is none."""
    chain: list[Launcher] = []
    child = os.getpid()
    with suppress(psutil.Error):  # one above has just ended, or belongs to another user
        for parent in psutil.Process().parents():
            name = program_of(parent.cmdline())
            if name not in _LAUNCHERS:
                break
            chain.append(Launcher(parent.pid, child, name))
            child = parent.pid
    return tuple(chain)


def first_dead(chain: Sequence[Launcher]) -> Launcher | None:
    """The nearest launcher of `chain` that has ended: its child has another parent now."""
    return next((launcher for launcher in chain if _parent(launcher.child) != launcher.pid), None)


def program_of(words: Sequence[str]) -> str | None:
    """The module or script that a Python command line runs: `python -u -m launch CONFIG` runs `launch`."""
    for index, word in enumerate(words[1:], start=1):
        if word == "-m":
            return words[index + 1] if index + 1 < len(words) else None
        if not word.startswith("-"):
            return Path(word).name
    return None


def descendants(pid: int) -> list[int]:
    """The ids of all processes of this machine below `pid`; orphans no longer count."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def command_output(*words: str) -> str | None:
    """What a command writes to standard output, where file names may be no UTF-8; None if it is missing or fails."""
    try:
        return os.fsdecode(subprocess.run(words, capture_output=True, timeout=60, check=True).stdout)
    except (OSError, subprocess.SubprocessError):
        return None


def machine_id() -> str:
    """The boot and the pid namespace of this machine; empty if /proc does not show them, or another namespace's."""
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return ""
        return f"{_BOOT_ID.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, ...; empty if there is no such process."""
    try:
        # pid (name) state parent ...; the name may contain spaces and brackets
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int | None:
    if pid == os.getpid():
        return os.getppid()
    fields = stat_fields(pid)
    return int(fields[_PARENT]) if fields else None


def _is_hidden(pid: int) -> bool:
    """Whether a process exists although /proc does not show it: /proc may hide other users' processes."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
