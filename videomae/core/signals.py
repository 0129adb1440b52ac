"""Graceful stop requests and the exit codes of commands.

SIGTERM, SIGUSR1 and SIGINT request a stop. So do a file named STOP in the run directory and the death of the launcher
(see `videomae.core.processes`), both of which the watchdog checks. All ranks then agree on a step, save and exit. This
module records the request and interrupts a wait for data. It imports nothing heavy, so that a command can install its
signal handlers before its slow imports.
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
EXIT_MISTAKE = 2  # a user error: bad config, bad data
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command resumes the run
EXIT_LIMIT = 76  # a health limit is reached: a restart would end in the same way
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# A second SIGINT within this time is a duplicate: ctrl-C reaches a worker directly and through its launcher.
_ECHO_SECONDS = 3.0


class Stopped(Exception):
    """The run was asked to stop and has saved its state; the same command resumes it."""


class LimitReached(Exception):
    """The run has reached a health limit; somebody has to look at it before it is started again."""


class _Interrupted(BaseException):
    """Raised in the main thread while it waits for data; `except Exception` does not catch it."""


class StopRequest:
    """Whether, why and when this process was asked to stop."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.asked_at: float | None = None  # time.monotonic()
        self.launchers = find_launchers()  # parents of this process, read while they are certain to exist
        self._owner = os.getpid()
        self._waits = False

    def ask(self, reason: str) -> None:
        """Request a stop, from any thread, and interrupt a wait for data. The first reason is kept."""
        if self.reason is None:
            self.reason, self.asked_at = reason, time.monotonic()
        self.interrupt()

    def left(self, deadline: float | None) -> float:
        """Return the seconds left of `deadline` since the stop was requested, at least one.

        Without a stop or a deadline the result is infinite: nothing will kill this process.
        """
        if self.asked_at is None or deadline is None:
            return math.inf
        return max(1.0, self.asked_at + deadline - time.monotonic())

    def interrupt(self) -> None:
        """Interrupt the main thread if it waits for data and a stop is requested."""
        if self._waits and self.reason is not None and threading.current_thread() is not threading.main_thread():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def interruptible(self, wait: Callable[[], T]) -> T | None:
        """Return the result of `wait`, or None as soon as a stop is requested, which interrupts `wait`."""
        try:
            self._waits = True
            return None if self.reason is not None else wait()
        except _Interrupted:
            return None
        finally:
            self._waits = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Record the signal; a second SIGINT exits at once without saving."""
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
    """Turn signals into stop requests inside the context; a nested context yields the request of the outer one."""
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
    """Block the signals; processes that are started inside inherit the mask and never receive them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """Ignore the signals; the parent process handles them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_workers() -> None:
    """Kill the remaining worker processes; call it before the interpreter exits.

    At exit, multiprocessing sends SIGTERM to its daemons and joins them. Workers ignore SIGTERM, so it would hang.
    """
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler makes an error of each one's end
    for worker in workers:
        worker.kill()


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Exit with all stacks on standard error if the body takes longer than `seconds`; for the shutdown."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
