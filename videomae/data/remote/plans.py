"""What the processes of a node say they will need: for each file of the cache, in how many batches from now.

One small file for each rank and data set, rewritten as it goes on; what a dead process said is removed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from videomae.core.files import write_json

_numbers = itertools.count()


class Plan:
    """One speaker's announcements about the files of one folder of the cache."""

    def __init__(self, plans: Path, folder: str) -> None:
        self._folder = folder
        self._file = plans / f"{os.getpid()}-{next(_numbers)}-{folder}@{socket.gethostname()}.json"

    def publish_plan(self, soon: Mapping[str, int]) -> None:
        """Say in how many batches each file is needed next; replaces what was said before."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._file, {f"{self._folder}/{name}": batches for name, batches in soon.items()})

    def withdraw(self) -> None:
        """Nothing is needed any more."""
        self._file.unlink(missing_ok=True)


def next_uses(plans: Path) -> dict[str, int]:
    """In how many batches anybody needs each announced file; what this host's dead processes said is removed."""
    needed: dict[str, int] = {}
    for plan in plans.glob("*.json"):
        process, _, host = plan.stem.partition("@")
        if host == socket.gethostname() and not Path(f"/proc/{process.partition('-')[0]}").exists():
            plan.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError, ValueError, AttributeError, TypeError):  # none of ours
            for name, batches in json.loads(plan.read_text()).items():
                needed[name] = min(needed.get(name, batches), batches)
    return needed
