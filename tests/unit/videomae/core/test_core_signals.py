"""Requests to stop: who is heard, what a wait for data does, and which processes hear nothing."""

import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from videomae.core.signals import SIGNALS, block_signals, handle_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request_and_afterwards_what_it_was_before(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with handle_signals() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), number)
        assert stop.reason == f"signal {number.name}"
        with handle_signals() as again:
            assert again is stop
    assert signal.getsignal(number) is before
    with handle_signals() as stop:
        assert stop.reason is None


def test_the_first_reason_counts() -> None:
    with handle_signals() as stop:
        stop.ask("STOP exists")
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "STOP exists"


def test_what_is_left_of_a_deadline_counts_from_the_request() -> None:
    with handle_signals() as stop:
        assert stop.left(110) == math.inf
        stop.ask("STOP exists")
        assert stop.left(None) == math.inf
        assert 60 < stop.left(110) <= 110
        assert stop.asked_at is not None
        stop.asked_at -= 300
        assert stop.left(110) == 1.0


@pytest.mark.parametrize("by_signal", [True, False])
def test_a_wait_for_data_ends_when_a_stop_is_asked_for(by_signal: bool) -> None:
    with handle_signals() as stop:

        def ask() -> None:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGTERM) if by_signal else stop.ask("STOP exists")

        threading.Thread(target=ask).start()
        assert stop.interruptible(lambda: time.sleep(120) or "not interrupted") is None
        assert stop.interruptible(lambda: pytest.fail("nothing is begun any more")) is None


def test_without_a_request_a_wait_gives_its_value_or_its_error() -> None:
    with handle_signals() as stop:
        assert stop.interruptible(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            stop.interruptible(lambda: 1 / 0)
        os.kill(os.getpid(), signal.SIGTERM)  # nobody waits: only remembered
        assert stop.reason == "signal SIGTERM"


def test_an_echo_of_ctrl_c_is_none_and_a_second_one_by_hand_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with handle_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "signal SIGINT"
        assert stop.asked_at is not None
        stop.asked_at -= 10
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_is_started_while_signals_are_held_never_hears_them() -> None:
    with block_signals():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        for number in SIGNALS:
            child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
    finally:
        child.kill()
        child.wait()
