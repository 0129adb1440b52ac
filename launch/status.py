"""List runs and their states."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from launch.run_state import RunState, inspect_runs
from videomae.core.errors import UserError
from videomae.core.progress import print_wide, time_since

_RUN_FILES = ("status.json", "launch", "summary.json", "benchmark.json")
_INNER_FOLDERS = {"launch", "checkpoints", "logs", "export", "rows", "reconstructions", "wandb", "lock"}


def print_status(folders: Iterable[Path], *, as_json: bool) -> None:
    """Print the runs in `folders`, each a run or a folder of runs, with the message of those that failed."""
    runs = [run for folder in folders for run in runs_below(folder)]
    found = [state for state in inspect_runs(runs) if state.state != "new"]
    if as_json:
        sys.stdout.write(json.dumps([asdict(state) for state in found], indent=1) + "\n")
        return
    print_wide(_table(found))
    for state in found:
        if state.state in ("failed", "broken"):
            sys.stdout.write(f"{state.message}\n")


def runs_below(folder: Path) -> Iterator[Path]:
    """`folder` if it is a run, else the runs below it.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; runs are below runs/, or where `run` in their configs points")
    for path, names, files in os.walk(folder):
        if not {*names, *files}.isdisjoint(_RUN_FILES):
            yield Path(path)
        names[:] = sorted(name for name in names if name not in _INNER_FOLDERS and not name.startswith("launch."))


def _table(found: Sequence[RunState]) -> Table:
    table = Table()
    for heading in ("run", "state", "step", "launcher", "host", "updated"):
        table.add_column(heading, overflow="fold")
    for state in found:
        table.add_row(
            state.run,
            state.state,
            "" if state.step is None else f"{state.step}/{state.total or '?'}",
            " ".join(filter(None, [state.kind, state.job])),
            state.host or "",
            "" if state.updated is None else f"{time_since(state.updated)} ago",
        )
    return table
