"""Who started this process, and whether they still live.

`deepspeed` dies at a SIGTERM without a word to the processes that it started, and so does any launcher at a SIGKILL.
Their orphans would train on, holding GPUs that a scheduler thinks are free. So each process looks whether the chain of
launchers above it still stands. What is no launcher, such as a shell that somebody logs out of, may go.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videomae.core.processes import stat_fields

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
class Ancestor:
    """A launcher above this process; `child` is the process of the chain that it started."""

    pid: int
    child: int
    name: str


def launchers() -> tuple[Ancestor, ...]:
    """The unbroken chain of launchers above this process, the nearest first; empty where there is none."""
    chain: list[Ancestor] = []
    child = os.getpid()
    while True:
        parent = _parent(child)
        name = program(_words(parent)) if parent else None
        if parent is None or name not in _LAUNCHERS:
            return tuple(chain)
        chain.append(Ancestor(parent, child, name))
        child = parent


def first_dead(chain: Sequence[Ancestor]) -> Ancestor | None:
    """The nearest launcher of `chain` that is gone: its child has another parent now."""
    return next((ancestor for ancestor in chain if _parent(ancestor.child) != ancestor.pid), None)


def program(words: Sequence[str]) -> str | None:
    """The module or script that a Python command line runs: `python -u -m launch CONFIG` runs `launch`."""
    for place, word in enumerate(words[1:], start=1):
        if word == "-m":
            return words[place + 1] if place + 1 < len(words) else None
        if not word.startswith("-"):
            return Path(word).name
    return None


def _parent(pid: int) -> int | None:
    if pid == os.getpid():
        return os.getppid()
    fields = stat_fields(pid)
    return int(fields[1]) if fields else None


def _words(pid: int) -> list[str]:
    try:
        return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    except OSError:
        return []
