"""A polite stop: a signal or a file asks, all ranks agree on the step, the run saves and leaves.

SIGTERM, SIGUSR1 and SIGINT, and a file called STOP in the run's directory, ask for a stop. The process then ends with
`EXIT_STOPPED`, which tells a scheduler that the same command goes on where it stopped.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import ClassVar

from videomae.distributed import World
from videomae.progress import logger

EXIT_FAILED = 1
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on where it stopped
EXIT_LIMIT = 76  # a limit of health is reached: starting again would do the same again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(Exception):
    """The run was asked to stop and has saved; the same command continues it."""


class LimitReached(Exception):
    """The run has used up a limit of its health; somebody has to look before it is started again."""


class StopRequest:
    """Remembers that a stop was asked for; what reaches one of them, all later ones of the process know."""

    _reason: ClassVar[str | None] = None

    def __init__(self, run_folder: Path, world: World) -> None:
        self._file = run_folder / "STOP"
        self._world = world
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def agreed(self) -> bool:
        """Whether any rank was asked to stop; called by all ranks at the same step."""
        reason = StopRequest._reason
        if reason is None and self._world.first and self._file.exists():
            reason = f"{self._file} exists"
        stop = self._world.any(reason is not None)
        if stop and reason is not None:
            logger.info("stopping: %s", reason)
        return stop

    def clear(self) -> None:
        """Remove a STOP file, so that the next start does not stop at once."""
        if self._world.first:
            self._file.unlink(missing_ok=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and StopRequest._reason is not None:
            raise KeyboardInterrupt  # asked twice by hand: at once, unsaved
        StopRequest._reason = f"signal {signal.Signals(number).name}"


@contextmanager
def held() -> Iterator[None]:
    """Hold the signals back; processes that are started inside never see them, however early they come."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Leave the signals to the process that started this one."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
