"""`python -m launch logs RUN [-f] [--rank N] [--raw]`: what the processes of a run say."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.finding import active_run_dir, inspect_run
from launch.run_directory import read_launch
from videomae.command import guarded
from videomae.core.errors import UserError
from videomae.core.progress import logger

_POLL = 0.5
_LOOK = 5.0  # seconds from one look whether the run still lives to the next


def main(words: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m launch logs", description="What the processes of a run say.")
    parser.add_argument("run", type=Path)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends; ctrl-C leaves it alone")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--lines", type=int, default=40, help="of what was said before")
    parser.add_argument("--raw", action="store_true", help="output as the launcher kept it: crashes, NCCL, Slurm")
    given = parser.parse_args(words)
    try:
        return guarded(lambda: _show(given))
    except KeyboardInterrupt:
        return 0


def _show(given: argparse.Namespace) -> None:
    if not given.run.is_dir():
        raise UserError(f"no folder {given.run}; `python -m launch status` lists the runs")
    file = log_file(given.run, rank=given.rank, raw=given.raw)
    if file is None and not (given.follow and inspect_run(given.run).alive):
        there = sorted(path.name for path in (active_run_dir(given.run) / "logs").glob("*"))
        raise UserError(
            f"rank {given.rank} has said nothing there; {', '.join(there) or 'no logs'} in {given.run}/logs"
        )
    if file is None or given.follow:
        lines = follow(given.run, given.rank, given.lines, raw=given.raw)
    else:
        lines = iter(tail(file, given.lines))
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()


def log_file(run: Path, *, rank: int, raw: bool) -> Path | None:
    """The newest file that holds what was asked for, if any; where no process came to speak, the raw output."""
    raw_names = (f"rank-{rank}.out", "slurm-*.log")
    for names in (raw_names,) if raw else ((f"rank-{rank}.log",), raw_names):
        found = [
            path for folder in {run, active_run_dir(run)} for name in names for path in (folder / "logs").glob(name)
        ]
        found += _of_array(run) if names is raw_names else []
        spoken = [path for path in found if path.stat().st_size]
        if spoken:
            return max(spoken, key=lambda path: path.stat().st_mtime)
    return None


def _of_array(run: Path) -> list[Path]:
    """What Slurm kept of the run, if it is a task of an array: it lies with the array, in the folder above."""
    launch = read_launch(run)
    if launch is None or launch.job is None or "_" not in launch.job:
        return []
    return list((run.parent / "logs").glob(f"slurm-{launch.job}.log"))


def tail(file: Path, count: int) -> list[str]:
    """The last lines of `file`, with their ends."""
    with file.open(errors="replace") as lines:
        return list(deque(lines, maxlen=count))


def follow(run: Path, rank: int, count: int, *, raw: bool) -> Iterator[str]:
    """The last lines of the run's log, and then each new piece until the run ends."""
    file, place = None, 0
    looked, living = time.monotonic(), True
    while True:
        newest = log_file(run, rank=rank, raw=raw)
        if newest != file and newest is not None:
            if file is not None:
                logger.info("==> %s", newest)
            file, place = newest, newest.stat().st_size
            yield from tail(newest, count)
        if file is not None:
            with file.open(errors="replace") as text:
                text.seek(place if file.stat().st_size >= place else 0)
                yield text.read()
                place = text.tell()
        if not living:
            return
        if time.monotonic() - looked > _LOOK:
            looked, found = time.monotonic(), inspect_run(run)
            living = found.alive
            if found.state == "waiting" and file is None:
                logger.info("%s", found.message)
        time.sleep(_POLL if living else 0)
