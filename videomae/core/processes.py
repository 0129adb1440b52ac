"""Which process a number means: numbers come again, so a process is known by its machine, its number and its start.

Read from Linux's /proc. A number says something only to those who look from the same namespace of the same boot of the
same machine; hostnames do not tell, since containers share them and machines are called alike.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_START = 19  # place of the start's time in `stat_fields`
_DEAD = ("Z", "X")  # ended, though its parent has not asked for the exit code yet


@dataclass(frozen=True)
class ProcessId:
    """One process for ever; `machine` is empty where it cannot be told, `start` is in clock ticks after the boot."""

    machine: str
    pid: int
    start: int

    @classmethod
    def this(cls) -> ProcessId:
        return cls.of(os.getpid()) or cls("", os.getpid(), 0)

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process of this machine that has the number now; None where there is none, or none to be seen."""
        fields = stat_fields(pid)
        return cls(machine(), pid, int(fields[_START])) if fields else None

    def lives(self) -> bool | None:
        """Whether it runs; None if that cannot be seen from here."""
        if not self.machine or self.machine != machine():
            return None
        fields = stat_fields(self.pid)
        if fields:
            return fields[0] not in _DEAD and int(fields[_START]) == self.start
        return None if _hidden(self.pid) else False


def machine() -> str:
    """What tells this machine's numbers of processes from others; empty where /proc does not say, or is another's."""
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):
            return ""
        return f"{_BOOT.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, ...; empty if there is no such process."""
    try:
        # pid (name) state parent ...; the name may hold spaces and brackets
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _hidden(pid: int) -> bool:
    """Whether the process is there, though /proc does not show it: it may hide the processes of others."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
