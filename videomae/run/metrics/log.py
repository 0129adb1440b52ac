"""metrics.jsonl: appending to it, cutting it back, reading it and following its growth.

Each line is a JSON object with `kind` (train, evaluation, checkpoint, ...), `step` and values. After a resume the lines
past the resumed step are cut off, so the file reads as if the run had never stopped.

JSON has no word for a float that is no number: such values are written as the strings "NaN", "Infinity" and
"-Infinity", as W&B does, and `read` gives the floats back. A line that a crash cut short is left out.

A disk that is full, or fails, does not end a run: its lines wait in memory and go out with the first write that works.
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
from videomae.run.metrics.mirror import WandbSync, start_wandb_sync

if TYPE_CHECKING:
    from videomae.core.distributed import World

Line = dict[str, Any]
_WAITING = 10_000  # lines at most that wait for a disk; the oldest go first
_NO_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsLog:
    """Appends to a run's metrics.jsonl; only rank 0 writes, and keeps the mirror."""

    def __init__(self, run: RunDirectory, metrics: MetricsConfig, *, world: World) -> None:
        self._run, self._metrics = run, metrics
        self._world, self._writes = world, world.is_main
        self._mirror: WandbSync | None = None
        self._mirrored = False  # the mirror is started with the first line
        self._waiting: deque[str] = deque(maxlen=_WAITING)  # encoded lines that are not in the file yet
        self._failing = False  # the last write failed

    def cut_back(self, step: int, *, again: Sequence[str] = ()) -> None:
        """Drop what was logged after `step`, and the kinds `again` at it: it will be done again. Called by all ranks.

        Raises:
            OSError: the disk does not take the shorter file; the longer one is as it was.
        """

        def stays(line: Line) -> bool:
            return line.get("step", 0) <= step - (line.get("kind") in again)

        self._world.main_only(lambda: _cut(self._run.metrics, stays))
        waiting = [text for text in self._waiting if stays(decode(text) or {})]
        self._waiting = deque(waiting, maxlen=_WAITING)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one line; `kind` and `step` come first. Where the disk does not take it, it waits for the next."""
        if not self._writes:
            return
        self._waiting.append(encode({"kind": kind, "step": step, **values}))
        self._append()
        if not self._mirrored:
            self._mirrored, self._mirror = True, start_wandb_sync(self._run, self._metrics)
        if self._mirror is not None:
            self._mirror.look()

    def close(self, *, seconds: float = math.inf) -> None:
        """Try once more to write what waits, and give the mirror a bounded time to take the rest of the file.

        That is at most `seconds`, where a launcher waits for this process to end.
        """
        if self._waiting:
            self._append()
        if self._mirror is not None:
            self._mirror.close(seconds=seconds)

    def _append(self) -> None:
        """Write all that waits, or leave the file as it was; an error on rank 0 alone would make the others hang."""
        data, size = "".join(self._waiting).encode(), None
        try:
            with self._run.metrics.open("ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                while data:
                    data = data[file.write(data) :]
        except OSError as error:
            if size is not None:
                with suppress(OSError):
                    os.truncate(self._run.metrics, size)  # half a line would spoil the next one
            if not self._failing:
                logger.error("%s cannot be written (%s); its lines are kept for later", self._run.metrics, error)
            self._failing = True
        else:
            self._waiting.clear()
            self._failing = False


def _cut(file: Path, stays: Callable[[Line], bool]) -> None:
    """Keep the lines of `file` that stay; on a full disk by cutting its end off, if that is all that has to go."""
    if not file.exists():
        return
    kept = "".join(encode(line) for line in read_metrics(file) if stays(line))
    try:
        write_atomic(file, kept)
    except OSError as error:
        data = kept.encode()
        if not file.read_bytes().startswith(data):
            raise OSError(
                f"{file} cannot be cut back to where the run goes on ({error.strerror or error}); nothing of it is "
                "lost, and no step was done: free some space there, then start the same command again"
            ) from error
        os.truncate(file, len(data))
        logger.warning("%s was cut back in place, as the disk does not take a copy (%s)", file, error.strerror)


def encode(line: Line) -> str:
    """One line of valid JSON, its end included."""
    return json.dumps(plain(line), allow_nan=False) + "\n"


def decode(text: str) -> Line | None:
    """The inverse of `encode`; None for what is no JSON object, such as half a line."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict):
        return None
    return {key: _NO_NUMBERS.get(value, value) if isinstance(value, str) else value for key, value in line.items()}


def read_metrics(file: Path) -> list[Line]:
    """The lines of a metrics.jsonl; what is no line, such as a last one cut short by a crash, is left out."""
    lines = []
    for number, text in enumerate(file.read_text().splitlines() if file.exists() else [], start=1):
        line = decode(text)
        if line is None:
            logger.warning("%s:%d is cut short and left out", file, number)
        else:
            lines.append(line)
    return lines


class Follower:
    """Reads a growing metrics.jsonl piece by piece, and from its start again when it was cut back."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._identity: tuple[int, int] | None = None
        self._offset = 0

    def new(self) -> tuple[bool, list[Line]]:
        """Whether the file is another one than before, and its whole lines that were not given yet."""
        try:
            handle = self._file.open("rb")
        except FileNotFoundError:
            return False, []
        with handle:
            status = os.fstat(handle.fileno())
            identity = (status.st_dev, status.st_ino)
            again = identity != self._identity or status.st_size < self._offset
            if again:
                self._identity, self._offset = identity, 0
            handle.seek(self._offset)
            whole, newline, _ = handle.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return again, list(_decoded(whole))


def _decoded(whole: bytes) -> Iterator[Line]:
    for text in whole.decode(errors="replace").splitlines():
        line = decode(text)
        if line is not None:
            yield line


def plain(value: Any) -> Any:
    """`value` with every float that is no number as its string, inside of dictionaries and lists too."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
