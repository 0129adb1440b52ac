"""metrics.jsonl: append, truncate, read and follow.

Each line is a JSON object with `kind` (train, evaluation, checkpoint, ...), `step` and values. On resume the lines
after the resumed step are removed, so the file reads as if the run had never stopped.

JSON cannot express non-finite floats: they are written as the strings "NaN", "Infinity" and "-Infinity", as W&B does,
and `read_metrics` returns floats. Readers ignore an incomplete line, which a crash may leave.

A full or failing disk does not end a run: the lines are kept in memory until a write succeeds.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomae.core.files import write_atomic
from videomae.core.progress import logger
from videomae.run.directory import RunDirectory
from videomae.run.metrics.config import MetricsConfig
from videomae.run.metrics.wandb_sync import WandbSync, start_wandb_sync

if TYPE_CHECKING:
    from videomae.core.distributed import World

Line = dict[str, Any]
_MAX_UNWRITTEN = 10_000  # lines kept in memory; the oldest are dropped first
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsLog:
    """Appends to a run's metrics.jsonl and starts its W&B process, on rank 0 only."""

    def __init__(self, run: RunDirectory, metrics: MetricsConfig, *, world: World) -> None:
        self._run, self._metrics = run, metrics
        self._world, self._writes = world, world.is_main
        self._sync: WandbSync | None = None
        self._sync_started = False  # it starts with the first line
        self._unwritten: deque[str] = deque(maxlen=_MAX_UNWRITTEN)  # encoded lines that are not in the file yet
        self._failing = False  # the last write failed

    def truncate(self, step: int, *, again: Sequence[str] = ()) -> None:
        """Remove the lines after `step`, and those of the kinds `again` at `step`, which are repeated. On all ranks.

        Raises:
            OSError: the shorter file cannot be written; the file is unchanged.
        """

        def keep(line: Line) -> bool:
            return line.get("step", 0) <= step - (line.get("kind") in again)

        self._world.main_only(lambda: _filter(self._run.metrics, keep))
        kept = [text for text in self._unwritten if keep(decode(text) or {})]
        self._unwritten = deque(kept, maxlen=_MAX_UNWRITTEN)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one line; `kind` and `step` come first. If the disk fails, it is written with a later one."""
        if not self._writes:
            return
        self._unwritten.append(encode({"kind": kind, "step": step, **values}))
        self._append()
        if not self._sync_started:
            self._sync_started, self._sync = True, start_wandb_sync(self._run, self._metrics)
        if self._sync is not None:
            self._sync.poll()

    def close(self, *, seconds: float = math.inf) -> None:
        """Retry unwritten lines, then give the W&B process a bounded time of at most `seconds` to send the rest."""
        if self._unwritten:
            self._append()
        if self._sync is not None:
            self._sync.close(seconds=seconds)

    def _append(self) -> None:
        """Write all unwritten lines or none. Never raises: an error on rank 0 alone would hang the others."""
        data, size = "".join(self._unwritten).encode(), None
        try:
            with self._run.metrics.open("ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                while data:
                    data = data[file.write(data) :]
        except OSError as error:
            if size is not None:
                with suppress(OSError):
                    os.truncate(self._run.metrics, size)  # an incomplete line would corrupt the next one
            if not self._failing:
                logger.error("%s cannot be written (%s); its lines are kept in memory", self._run.metrics, error)
            self._failing = True
        else:
            self._unwritten.clear()
            self._failing = False


def _filter(file: Path, keep: Callable[[Line], bool]) -> None:
    """Keep only some lines of `file`; on a full disk in place, if the lines to remove are at its end."""
    if not file.exists():
        return
    kept = "".join(encode(line) for line in read_metrics(file) if keep(line))
    try:
        write_atomic(file, kept)
    except OSError as error:
        data = kept.encode()
        if not file.read_bytes().startswith(data):
            raise OSError(
                f"{file} cannot be truncated to the resumed step ({error.strerror or error}); nothing is lost, "
                "and no step was done: free some space there, then start the same command again"
            ) from error
        os.truncate(file, len(data))
        logger.warning("%s was truncated in place, because a copy cannot be written (%s)", file, error.strerror)


def encode(line: Line) -> str:
    """One line of valid JSON, with its newline."""
    return json.dumps(plain(line), allow_nan=False) + "\n"


def decode(text: str) -> Line | None:
    """The inverse of `encode`; None if `text` is not a JSON object, such as an incomplete line."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict):
        return None
    return {key: _NON_FINITE.get(value, value) if isinstance(value, str) else value for key, value in line.items()}


def read_metrics(file: Path) -> list[Line]:
    """The lines of a metrics.jsonl, without incomplete ones."""
    lines = []
    for number, text in enumerate(file.read_text().splitlines() if file.exists() else [], start=1):
        line = decode(text)
        if line is None:
            logger.warning("%s:%d is incomplete and ignored", file, number)
        else:
            lines.append(line)
    return lines


def count_lines(file: Path) -> int:
    """The number of lines of a file; 0 if it cannot be read."""
    try:
        return file.read_bytes().count(b"\n")
    except OSError:
        return 0


class Follower:
    """Reads a growing metrics.jsonl incrementally, and from its start again when it was truncated."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._identity: tuple[int, int] | None = None
        self._offset = 0

    def new(self) -> tuple[bool, list[Line]]:
        """Whether reading restarted from the beginning, and the complete lines that are new."""
        try:
            handle = self._file.open("rb")
        except FileNotFoundError:
            return False, []
        with handle:
            status = os.fstat(handle.fileno())
            identity = (status.st_dev, status.st_ino)
            restarted = identity != self._identity or status.st_size < self._offset
            if restarted:
                self._identity, self._offset = identity, 0
            handle.seek(self._offset)
            complete, newline, _ = handle.read().rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        return restarted, list(_decode_lines(complete))


def _decode_lines(complete: bytes) -> Iterator[Line]:
    for text in complete.decode(errors="replace").splitlines():
        line = decode(text)
        if line is not None:
            yield line


def plain(value: Any) -> Any:
    """`value` with every non-finite float replaced by its string, recursively."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
