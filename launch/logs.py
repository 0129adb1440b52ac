"""Print or follow the logs of a run."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from launch.record import read_launch
from launch.run_state import active_run_dir, inspect_run
from videomae.core.errors import UserError
from videomae.core.progress import logger

_POLL = 0.5
_INSPECT = 5.0  # seconds between two checks whether the run is alive


def print_logs(run: Path, *, follow: bool, rank: int, lines: int, raw: bool) -> None:
    """Print the last `lines` of a rank's log, and with `follow` what is written until the run ends.

    `raw` prints the output that the launcher captured instead.

    Raises:
        UserError: there is no run, or its rank has no log.
    """
    if not run.is_dir():
        raise UserError(f"no folder {run}; `videomae status` lists runs")
    file = log_file(run, rank=rank, raw=raw)
    if file is None and not (follow and inspect_run(run).alive):
        found = sorted(path.name for path in (active_run_dir(run) / "logs").glob("*"))
        raise UserError(f"no log of rank {rank}; {run}/logs holds {', '.join(found) or 'nothing'}")
    text = iter(tail(file, lines)) if file is not None and not follow else follow_log(run, rank, lines, raw=raw)
    for line in text:
        sys.stdout.write(line)
        sys.stdout.flush()


def log_file(run: Path, *, rank: int, raw: bool) -> Path | None:
    """The newest log file of `rank`, or None; the captured output if the process has not logged anything."""
    raw_names = (f"rank-{rank}.out", "slurm-*.log")
    for names in (raw_names,) if raw else ((f"rank-{rank}.log",), raw_names):
        found = [
            path for folder in {run, active_run_dir(run)} for name in names for path in (folder / "logs").glob(name)
        ]
        found += _array_logs(run) if names is raw_names else []
        nonempty = [path for path in found if path.stat().st_size]
        if nonempty:
            return max(nonempty, key=lambda path: path.stat().st_mtime)
    return None


def _array_logs(run: Path) -> list[Path]:
    """The output of the run's task of a Slurm array, which is in the folder of the array."""
    launch = read_launch(run)
    if launch is None or launch.job is None or "_" not in launch.job:
        return []
    return list((run.parent / "logs").glob(f"slurm-{launch.job}.log"))


def tail(file: Path, count: int) -> list[str]:
    """The last `count` lines of `file`, with their line ends."""
    with file.open(errors="replace") as lines:
        return list(deque(lines, maxlen=count))


def follow_log(run: Path, rank: int, count: int, *, raw: bool) -> Iterator[str]:
    """The last `count` lines of the run's log, then each new piece of text until the run ends."""
    file, position = None, 0
    inspected, alive = time.monotonic(), True
    while True:
        newest = log_file(run, rank=rank, raw=raw)
        if newest != file and newest is not None:
            if file is not None:
                logger.info("==> %s", newest)
            file, position = newest, newest.stat().st_size
            yield from tail(newest, count)
        if file is not None:
            with file.open(errors="replace") as text:
                text.seek(position if file.stat().st_size >= position else 0)
                yield text.read()
                position = text.tell()
        if not alive:
            return
        if time.monotonic() - inspected > _INSPECT:
            inspected, found = time.monotonic(), inspect_run(run)
            alive = found.alive
            if found.state == "waiting" and file is None:
                logger.info("%s", found.message)
        time.sleep(_POLL if alive else 0)
