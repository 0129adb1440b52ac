"""Ends a run that hangs, with the stacks of every rank: each rank has a watchdog of its own.

The training says what it is about to do and for how long that may take. A thread looks once a second whether it has got
on. If not, it writes the Python stacks of all threads to `logs/rank-N.stacks.txt`, gives the other ranks time to do the
same (they wait in a collective for this one, and their watchdogs see no progress either), and ends the process with
exit code 1. Should a library hang while it holds the interpreter's lock, no Python thread runs; a timer of faulthandler
in C, which the thread puts off as long as it runs itself, then does the same.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from videomae.core.progress import logger
from videomae.core.signals import EXIT_FAILED

_INTERVAL = 1.0  # seconds between two looks
_GRACE = (
    5.0  # seconds that the other ranks get to write their stacks before this one leaves and breaks their collective
)
_LAST_RESORT = 10.0  # seconds beside twice the grace, after which a process leaves that cannot even write its stacks


class Watchdog:
    """Watches one process; open from `with` on.

    `timeout` is how long a piece of work may take when nothing else is said; `startup_timeout` until the first beat.
    """

    def __init__(
        self,
        stacks: Path,
        *,
        timeout: float,
        startup_timeout: float,
        poll: Callable[[], None] = lambda: None,
        on_hang: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._path = stacks
        self._timeout = timeout
        self._poll, self._on_hang = poll, on_hang
        self._closed = threading.Event()
        self._interval = min(_INTERVAL, timeout / 10)
        self._grace = min(_GRACE, timeout)
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._since, self._limit, self._work = time.monotonic(), startup_timeout, "start-up"

    def __enter__(self) -> Watchdog:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a")
        self._since = time.monotonic()
        self._poll()
        self._put_off()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        if not self._path.stat().st_size:
            self._path.unlink()

    def beat(self, work: str) -> None:
        """Something is done, and `work` is next; it has the usual time."""
        self._set(work, self._timeout)

    @contextmanager
    def allow(self, work: str, seconds: float | None) -> Iterator[None]:
        """Give `work` at most, or at least, `seconds`; None leaves it the time that is left."""
        before = self._work, self._limit
        if seconds is not None:
            self._set(work, seconds)
        try:
            yield
        finally:
            if seconds is not None:
                self._set(*before)

    def _set(self, work: str, limit: float) -> None:
        self._since, self._limit, self._work = time.monotonic(), limit, work

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            self._put_off()
            self._poll()
            late = time.monotonic() - self._since
            if late > self._limit:
                self._end(f"{self._work} has not ended within {self._limit:g} s")

    def _put_off(self) -> None:
        faulthandler.dump_traceback_later(self._limit + self._grace, exit=True, file=self._file)

    def _end(self, reason: str) -> NoReturn:
        # What hangs may be the shared filesystem, or hold a lock of the log: from here on nothing may be waited for.
        # The timer in C is the last resort, with nowhere to write to: dumping stacks holds the interpreter's lock.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        faulthandler.dump_traceback_later(2 * self._grace + _LAST_RESORT, exit=True, file=nowhere)
        began = time.monotonic()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._file.write(f"--- {now} process {os.getpid()}: {reason}\n")
        self._file.flush()
        faulthandler.dump_traceback(file=self._file, all_threads=True)
        telling = threading.Thread(target=self._tell, args=(reason,), name="last-words", daemon=True)
        telling.start()
        telling.join(self._grace)
        time.sleep(max(0.0, began + self._grace - time.monotonic()))
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(EXIT_FAILED)

    def _tell(self, reason: str) -> None:
        self._on_hang(reason)
        logger.critical("the run hangs and is ended: %s; where it stood is in %s", reason, self._path)
