"""A machine that is made slower: the share of a core that is taken, and what is refused."""

import multiprocessing
import time

import pytest

from benchmarks import slower_machine
from benchmarks.slower_machine import measure, slowed
from videomae.core.errors import UserError


def share_left() -> float:
    """The share of a second that this process can compute in."""
    began, computed = time.monotonic(), time.process_time()
    while time.monotonic() - began < 1:
        pass
    return time.process_time() - computed


def test_a_core_loses_the_share_until_the_end() -> None:
    try:
        with slowed(0.6):
            time.sleep(2)  # until the threads run
            assert share_left() < 0.5
    except UserError as refused:
        pytest.skip(str(refused))
    assert multiprocessing.active_children() == []


def test_a_faster_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slower_machine, "gflops", lambda: 100.0)
    with pytest.raises(UserError, match="got 120, wanted less than the 100"):
        measure(["true"], 120)
