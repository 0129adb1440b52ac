"""Processes that signals do not reach: they are asked to stop by a file, awaited, and killed after the deadline."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import ROOT
from videomae.core.processes import descendants

LAUNCH = """
import sys
from pathlib import Path
from launch import local
from launch.local import Command
local._GRACE = 0.5
commands = [Command(["bash", "-c", text]) for text in sys.argv[3:]]
sys.exit(local.run_with_stop_file(commands, Path(sys.argv[1]), stop_seconds=float(sys.argv[2])))
"""
SAVES = "touch up; until [ -e STOP ]; do sleep 0.05; done; rm STOP; sleep 0.5; [ ! -e STOP ] && exit 75"
HANGS = "touch up; exec sleep 300"


def start_launch(run: Path, stop_seconds: float, *shell: str) -> "subprocess.Popen[bytes]":
    """Run `shell` commands as the processes of a launch, in the folder `run`, and wait until one has started."""
    words = [sys.executable, "-c", LAUNCH, str(run), str(stop_seconds), *(f"cd {run}; {text}" for text in shell)]
    process = subprocess.Popen(words, cwd=ROOT)
    while not (run / "up").exists():
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_file_and_is_given_once(tmp_path: Path, number: signal.Signals) -> None:
    process = start_launch(tmp_path, 60, SAVES)
    process.send_signal(number)
    assert process.wait(300) == 75
    assert not (tmp_path / "STOP").exists()


@pytest.mark.parametrize("way", ["deadline", "twice"])
def test_what_does_not_stop_is_ended(tmp_path: Path, way: str) -> None:
    process = start_launch(tmp_path, 0.5 if way == "deadline" else 300, HANGS)
    below = descendants(process.pid)
    assert below
    process.send_signal(signal.SIGINT)
    if way == "twice":
        while not (tmp_path / "STOP").exists():  # the first signal has been handled
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    assert process.wait(300) == 128 + signal.SIGTERM
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    assert not (tmp_path / "STOP").exists()


def test_when_one_host_fails_the_others_end_too(tmp_path: Path) -> None:
    process = start_launch(tmp_path, 300, HANGS, "exit 3")
    assert process.wait(300) == 3


def test_a_host_that_saves_longer_than_another_is_awaited(tmp_path: Path) -> None:
    process = start_launch(tmp_path, 60, "touch up; sleep 2; touch saved; exit 75", "exit 75")
    assert process.wait(300) == 75
    assert (tmp_path / "saved").exists(), "it was killed after the grace period"


def test_descendants_are_those_of_a_process() -> None:
    child = subprocess.Popen(["bash", "-c", "sleep 300 & echo; wait"], stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    child.stdout.readline()
    assert len(descendants(child.pid)) == 1
    assert child.pid in descendants(os.getpid())
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
