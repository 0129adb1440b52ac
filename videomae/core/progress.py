"""Progress and logging on standard error: bars on a terminal, plain lines elsewhere.

Standard output carries only results, so that `--json` prints nothing else.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10.0
WIDTH = 160  # of tables that are not printed to a terminal
console = Console(stderr=True)
logger = logging.getLogger("videomae")
_bars = console.is_terminal


class Task(Protocol):
    """A task with a known number of units."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """Add `units` to the count and show `note` beside it."""


class _BarTask:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, units: int = 1, note: str = "") -> None:
        self._bars.update(self._task, advance=units, note=note)


class _LineTask:
    """Writes a line every ten seconds and one at the end."""

    def __init__(self, title: str, total: int, done: int) -> None:
        self._title, self._total, self._done = title, total, done
        self._start_done, self._start = done, time.monotonic()
        self._last = self._start

    def advance(self, units: int = 1, note: str = "") -> None:
        self._done += units
        now = time.monotonic()
        if self._done < self._total and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        rate = (self._done - self._start_done) / max(now - self._start, 1e-9)
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate and self._done < self._total else ""
        suffix = f"  {note}" if note else ""
        logger.info("%s %d/%d  %.3g/s%s%s", self._title, self._done, self._total, rate, left, suffix)


def use_lines() -> None:
    """Show progress as lines from now on: the bars of several processes would overwrite each other on a terminal."""
    global _bars
    _bars = False


@contextmanager
def track(title: str, *, total: int, done: int = 0, show: bool = True) -> Iterator[Task]:
    """Show the progress of a task of `total` units; `show=False`, for ranks other than 0, shows nothing."""
    if show and not _bars:
        yield _LineTask(title, total, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not show) as bars:
        yield _BarTask(bars, bars.add_task(title, total=total, completed=done, note=""))


def log_to(file: Path | None, *, console_too: bool = True) -> None:
    """Send the project's log lines to standard error (unless `console_too` is off) and append them to `file`."""
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    if console_too:
        shown: logging.Handler = logging.StreamHandler()
        if console.is_terminal:
            shown = RichHandler(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S")
        else:
            shown.setFormatter(plain)
        shown.setLevel(logging.INFO)
        logger.addHandler(shown)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = logging.FileHandler(file)
        kept.setFormatter(plain)
        logger.addHandler(kept)


def output_width() -> int:
    """Columns of the terminal of standard output, or 160 where it is none."""
    out = Console()
    return out.width if out.is_terminal else WIDTH


def print_wide(*contents: RenderableType) -> None:
    """Print to standard output in `output_width()` columns."""
    out = Console(width=output_width())
    for content in contents:
        out.print(content)


def duration(seconds: float) -> str:
    """`seconds` in a readable unit."""
    if not math.isfinite(seconds):
        return "an unknown time"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 2:
        return f"{days:.1f} days"
    if hours >= 1:
        return f"{int(hours)} h {int(minutes) % 60:02d} min"
    return f"{int(minutes)} min {int(seconds) % 60:02d} s" if minutes >= 1 else f"{seconds:.0f} s"


def time_since(moment: str) -> str:
    """The time since `moment`, in ISO 8601 with its zone."""
    return duration(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()))
