"""A polite stop: a signal, a file or the launcher's death asks, all ranks agree on the step, the run saves and leaves.

SIGTERM, SIGUSR1 and SIGINT ask for a stop; so do a file called STOP in the run's directory and the end of the launcher
(see `videomae.core.processes`), which the run's watchdog looks for. This module remembers that somebody asked, lets
the main thread stop waiting for data then, and owns the exit codes. It imports nothing heavy, so that a command can
listen before its slow imports.
"""

from __future__ import annotations

import faulthandler
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar, TypeVar

from videomae.core.processes import find_launchers

T = TypeVar("T")
EXIT_FAILED = 1
EXIT_MISTAKE = 2  # the user's: bad config, bad data
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on where it stopped
EXIT_LIMIT = 76  # a limit of health is reached: starting again would do the same again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# Within this time a second SIGINT is an echo: a terminal's ctrl-C reaches a worker directly and through its launcher.
_ECHO_SECONDS = 3.0


class Stopped(Exception):
    """The run was asked to stop and has saved; the same command continues it."""


class LimitReached(Exception):
    """The run has used up a limit of its health; somebody has to look before it is started again."""


class _Interrupted(BaseException):
    """Raised in the main thread while it waits for data; no `except Exception` on the way may swallow it."""


class StopRequest:
    """Whether and why this process was asked to stop, and since when."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.asked_at: float | None = None  # time.monotonic()
        self.launchers = find_launchers()  # above this process, as long as they are sure to be there
        self._owner = os.getpid()
        self._waits = False

    def ask(self, reason: str) -> None:
        """Ask for a stop, from any thread; the first reason counts. Ends a wait for data."""
        if self.reason is None:
            self.reason, self.asked_at = reason, time.monotonic()
        self.interrupt()

    def left(self, deadline: float | None) -> float:
        """Seconds for what may be broken off: what is left of `deadline` since a stop was asked for, but at least one.

        Without a stop or a deadline there is no limit: nobody will kill this process.
        """
        if self.asked_at is None or deadline is None:
            return math.inf
        return max(1.0, self.asked_at + deadline - time.monotonic())

    def interrupt(self) -> None:
        """End the main thread's wait for data, if it waits and a stop is asked for."""
        if self._waits and self.reason is not None and threading.current_thread() is not threading.main_thread():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def interruptible(self, wait: Callable[[], T]) -> T | None:
        """What `wait` gives, or None as soon as a stop is asked for; what `wait` was doing is then broken off."""
        try:
            self._waits = True
            return None if self.reason is not None else wait()
        except _Interrupted:
            return None
        finally:
            self._waits = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; a second SIGINT by hand leaves at once, unsaved."""
        if os.getpid() != self._owner:
            return  # a forked child that has not set its own handlers yet
        late = self.asked_at is not None and time.monotonic() - self.asked_at > _ECHO_SECONDS
        if number == signal.SIGINT and late:
            raise KeyboardInterrupt
        self.ask(f"signal {signal.Signals(number).name}")
        if self._waits:
            self._waits = False
            raise _Interrupted


class _Listener:
    current: ClassVar[StopRequest | None] = None


@contextmanager
def handle_signals() -> Iterator[StopRequest]:
    """Turn the signals into requests while open; inside an open one, it gives that one's request again."""
    if _Listener.current is not None:
        yield _Listener.current
        return
    request = _Listener.current = StopRequest()
    before = {number: signal.signal(number, request.on_signal) for number in SIGNALS}
    try:
        yield request
    finally:
        _Listener.current = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def block_signals() -> Iterator[None]:
    """Hold the signals back; processes that are started inside never see them, however early they come."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """Leave the signals to the process that started this one."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_workers() -> None:
    """End the processes that `ignore` the signals and are still there; to be called before the interpreter's exit.

    There multiprocessing ends its daemons by SIGTERM and waits for them, for these without end.
    """
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler makes an error of each one's end
    for worker in workers:
        worker.kill()


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """End the process with its stacks on standard error, should what is done inside take longer: the last farewells."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
