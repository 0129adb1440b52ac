"""Plans of upcoming reads: for each file of the cache, the number of batches until a process needs it.

Each rank writes one small file per data set and rewrites it as it advances. The plans of dead processes are removed.
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
    """The plan of one process for the files of one cache folder."""

    def __init__(self, plans: Path, folder: str) -> None:
        self._folder = folder
        self._file = plans / f"{os.getpid()}-{next(_numbers)}-{folder}@{socket.gethostname()}.json"

    def publish_plan(self, soon: Mapping[str, int]) -> None:
        """Publish the number of batches until each file is needed next. Replaces the previous plan."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._file, {f"{self._folder}/{name}": batches for name, batches in soon.items()})

    def withdraw(self) -> None:
        """Remove the plan: no file is needed any more."""
        self._file.unlink(missing_ok=True)


def next_uses(plans: Path) -> dict[str, int]:
    """Return, for each planned file, the number of batches until any process needs it.

    Removes the plans of dead processes of this host.
    """
    needed: dict[str, int] = {}
    for plan in plans.glob("*.json"):
        process, _, host = plan.stem.partition("@")
        if host == socket.gethostname() and not Path(f"/proc/{process.partition('-')[0]}").exists():
            plan.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError, ValueError, AttributeError, TypeError):  # gone, or not a plan
            for name, batches in json.loads(plan.read_text()).items():
                needed[name] = min(needed.get(name, batches), batches)
    return needed
