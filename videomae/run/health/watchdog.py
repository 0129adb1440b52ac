"""End a run that hangs, and write the stacks of every rank; each rank has its own watchdog.

Training announces its next operation and that operation's time limit. A thread checks the limit once a second. When it
is exceeded, the thread writes the Python stacks of all threads to `logs/rank-N.stacks.txt`, gives the other ranks time
to do the same (they wait for this one in a collective, and their watchdogs see no progress either), and ends the
process with exit code 1. If a library hangs while it holds the interpreter lock, no Python thread runs; then a C timer
of faulthandler, which the thread postpones while it runs, does the same.
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

_INTERVAL = 1.0  # seconds between checks
_GRACE = 5.0  # seconds for the other ranks to write their stacks, before this exit breaks their collective
_LAST_RESORT = 10.0  # seconds, beyond twice the grace, until a process exits that cannot write its stacks


class Watchdog:
    """Watches one process; a context manager.

    An operation may take `timeout` seconds unless `allow` says otherwise, and start-up, until the first beat,
    `startup_timeout`. `poll` is called at every check, `on_hang(reason)` before a hung process ends.
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
        self._postpone_timer()
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
        """Report progress: `work` is next, with the usual timeout."""
        self._set(work, self._timeout)

    @contextmanager
    def allow(self, work: str, seconds: float | None) -> Iterator[None]:
        """Set the time limit of `work`, the block, to `seconds`; None keeps the limit that is running."""
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
            self._postpone_timer()
            self._poll()
            if time.monotonic() - self._since > self._limit:
                self._end(f"{self._work} has not ended within {self._limit:g} s")

    def _postpone_timer(self) -> None:
        faulthandler.dump_traceback_later(self._limit + self._grace, exit=True, file=self._file)

    def _end(self, reason: str) -> NoReturn:
        # The shared filesystem may hang, or a thread may hold the log's lock: from here on, never wait without a limit.
        # The C timer is the last resort. It writes to /dev/null: dumping stacks to a hung file would block it too.
        devnull = os.open(os.devnull, os.O_WRONLY)
        faulthandler.dump_traceback_later(2 * self._grace + _LAST_RESORT, exit=True, file=devnull)
        began = time.monotonic()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._file.write(f"--- {now} process {os.getpid()}: {reason}\n")
        self._file.flush()
        faulthandler.dump_traceback(file=self._file, all_threads=True)
        reporter = threading.Thread(target=self._report, args=(reason,), name="hang-report", daemon=True)
        reporter.start()
        reporter.join(self._grace)
        time.sleep(max(0.0, began + self._grace - time.monotonic()))
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(EXIT_FAILED)

    def _report(self, reason: str) -> None:
        self._on_hang(reason)
        logger.critical("the run hangs and is ended: %s; its stacks are in %s", reason, self._path)
