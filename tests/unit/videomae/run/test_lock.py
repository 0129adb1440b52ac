"""A run has one owner: a living one keeps it, a dead one never blocks a start, and one of many starts gets it."""

import json
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from videomae.core.processes import ProcessId, stat_fields
from videomae.core.signals import Stopped, handle_signals
from videomae.run import lock
from videomae.run.liveness import LockRecord, LockState, read_lock
from videomae.run.lock import Clock, LockTimeouts, RunLock, RunOwnedError, acquire, take
from videomae.run.status import LauncherStatus

TIMEOUTS = LockTimeouts(stale=45.0, shutdown=140.0)
OTHER_MACHINE = ProcessId("another boot", 4711, 1)


@contextmanager
def sleeper(seconds: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", str(seconds)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def of(pid: int) -> ProcessId:
    process = ProcessId.of(pid)
    assert process is not None
    return process


def record_of(process: ProcessId, **values: object) -> LockRecord:
    about = LockRecord("node7", process, (), LauncherStatus("slurm", "4242"), (0, 0), "2026-01-01T00:00:00+00:00")
    return replace(about, **values)


def hold(run: Path, record: LockRecord) -> Path:
    """Make another start the run's first owner; returns its file."""
    assert take(run, 1, record)
    return run / "lock" / "1.json"


def acquire_and_release(
    run: Path, environment: dict[str, str] | None = None, meanwhile: Callable[[int], object] = lambda poll: None
) -> float:
    """Returns the seconds waited, on a clock that only polls advance; `meanwhile` is called with each poll's number."""
    seconds, polls = 0.0, 0

    def sleep(more: float) -> None:
        nonlocal seconds, polls
        seconds, polls = seconds + more, polls + 1
        meanwhile(polls)

    clock = Clock(now=lambda: seconds, sleep=sleep)
    acquire(run, environment or {}, timeouts=TIMEOUTS, clock=clock).release()
    return seconds


def beat(file: Path, *, times: int = 10_000) -> Callable[[int], None]:
    """Another machine's heartbeat, at every fifth poll."""

    def touch(poll: int) -> None:
        if poll % 5 == 0 and poll <= 5 * times:
            os.utime(file, (poll, poll))

    return touch


def kill(process: subprocess.Popen[bytes], *, at: int) -> Callable[[int], None]:
    """Kill `process` at this poll."""

    def end(poll: int) -> None:
        if poll == at:
            process.kill()
            process.wait()

    return end


def test_a_run_without_an_owner_is_acquired_and_released(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "new"
    held = acquire(run, {"SLURM_JOB_ID": "7"}, timeouts=TIMEOUTS)
    record = read_lock(run).record
    assert record is not None
    assert (record.process, record.launcher) == (ProcessId.current(), LauncherStatus("slurm", "7"))
    assert not record.released
    assert read_lock(run).is_alive()
    held.release()
    assert not read_lock(run).is_alive()
    assert acquire_and_release(run) == 0
    assert sorted(path.name for path in (run / "lock").iterdir()) == ["2.json"]


def test_a_living_owner_on_this_machine_keeps_it(tmp_path: Path) -> None:
    with sleeper() as process:
        file = hold(tmp_path, record_of(of(process.pid)))
        before = file.read_text()
        with pytest.raises(RunOwnedError) as refused:
            acquire_and_release(tmp_path, meanwhile=lambda poll: pytest.fail("refused without waiting"))
        for word in (
            f"process {process.pid} on node7",
            "slurm job 4242",
            "2026-01-01",
            "videomae stop",
            "wait",
            "run=",
        ):
            assert word in str(refused.value)
        assert file.read_text() == before
        assert len(list((tmp_path / "lock").iterdir())) == 1


def dead() -> ProcessId:
    with sleeper() as process:
        return of(process.pid)


def number_of_another() -> ProcessId:
    """The number of a process that lives, and began after the one that is meant."""
    return replace(of(os.getppid()), start=1)


@pytest.mark.parametrize("process", [dead, number_of_another])
def test_the_dead_do_not_keep_it(tmp_path: Path, process: Callable[[], ProcessId]) -> None:
    hold(tmp_path, record_of(process()))
    assert acquire_and_release(tmp_path) == 0


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    with sleeper() as process:
        meant = of(process.pid)
        hold(tmp_path, record_of(meant))
        process.kill()
        while stat_fields(process.pid)[0] != "Z":
            time.sleep(0.01)
        assert meant.is_alive() is False
        assert acquire_and_release(tmp_path) == 0


@pytest.mark.parametrize("acquired", ["2001-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00"])
def test_an_owner_on_another_machine_keeps_it_while_it_has_a_heartbeat(tmp_path: Path, acquired: str) -> None:
    """Whatever the clocks say."""
    file = hold(tmp_path, record_of(OTHER_MACHINE, acquired=acquired))
    os.utime(file, (0, 0) if acquired < "2026" else (4e9, 4e9))
    with pytest.raises(RunOwnedError, match="its heartbeat is recent"):
        acquire_and_release(tmp_path, meanwhile=beat(file))


def test_an_owner_on_another_machine_without_a_heartbeat_is_dead(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hold(tmp_path, record_of(OTHER_MACHINE, acquired="2099-01-01T00:00:00+00:00"))
    with caplog.at_level(logging.WARNING, "videomae"):
        assert acquire_and_release(tmp_path) == TIMEOUTS.stale
    assert "waiting for a heartbeat, up to 45 s" in caplog.text
    assert "counts as dead" in caplog.text


def test_an_owner_on_another_machine_may_die_while_it_is_watched(tmp_path: Path) -> None:
    file = hold(tmp_path, record_of(OTHER_MACHINE))
    assert acquire_and_release(tmp_path, meanwhile=beat(file, times=3)) == 15 + TIMEOUTS.stale


@pytest.mark.parametrize("how", ["its launcher is dead", "it was asked to stop"])
def test_an_owner_that_shuts_down_is_waited_for(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    orphan = {"launchers": (dead(),)} if "launcher" in how else {"stopping": "signal SIGTERM"}
    with sleeper() as process, caplog.at_level(logging.WARNING, "videomae"):
        hold(tmp_path, record_of(of(process.pid), **orphan))
        assert acquire_and_release(tmp_path, meanwhile=kill(process, at=100)) == 100 * TIMEOUTS.poll
    assert "waiting up to 140 s until it has left" in caplog.text


def test_an_owner_that_should_shut_down_and_does_not_keeps_it(tmp_path: Path) -> None:
    with sleeper() as process:
        hold(tmp_path, record_of(of(process.pid), stopping="signal SIGTERM"))
        with pytest.raises(RunOwnedError, match=r"there after 140 s \(it is shutting down \(signal SIGTERM\)\)"):
            acquire_and_release(tmp_path)


@pytest.mark.parametrize(
    ("environment", "follows"),
    [
        ({"SLURM_JOB_ID": "4242", "SLURM_RESTART_COUNT": "1"}, True),
        ({"SLURM_JOB_ID": "4242"}, False),  # a second srun in one allocation
        ({"SLURM_JOB_ID": "4243", "SLURM_RESTART_COUNT": "1"}, False),
        ({"SLURM_JOB_ID": "4242", "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1"}, True),
    ],
)
def test_a_later_start_of_the_same_job_waits_for_the_earlier(
    tmp_path: Path, environment: dict[str, str], follows: bool
) -> None:
    with sleeper() as process:
        hold(tmp_path, record_of(of(process.pid)))
        if follows:
            assert acquire_and_release(tmp_path, environment, kill(process, at=3)) == 3 * TIMEOUTS.poll
        else:
            with pytest.raises(RunOwnedError):
                acquire_and_release(tmp_path, environment)


def test_workers_that_one_launcher_starts_again_follow_each_other() -> None:
    launcher = of(os.getppid())
    mine, other = record_of(ProcessId.current(), launchers=(launcher,)), record_of(OTHER_MACHINE, launchers=(launcher,))
    assert mine.follows(other)
    assert not mine.follows(replace(other, launchers=(replace(launcher, start=1),)))
    by_hand = LauncherStatus("torchrun", "none")  # torchrun's word where nobody named the job
    assert not replace(mine, launchers=(), launcher=by_hand, restarts=(0, 1)).follows(replace(other, launcher=by_hand))


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("filesystem", ["with links", "without links"])
def test_one_of_many_gets_a_run_that_a_dead_one_had(
    tmp_path: Path, filesystem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if filesystem == "without links":
        without_links(monkeypatch)
    hold(tmp_path, record_of(dead()))
    with ThreadPoolExecutor(16) as pool:
        claim = record_of(ProcessId.current())
        won = list(pool.map(lambda _: take(tmp_path, 2, claim), range(200)))
    assert sum(won) == 1
    assert read_lock(tmp_path).number == 2


def test_a_number_below_the_highest_is_not_won(tmp_path: Path) -> None:
    """As by one who listed the folder, was held up, and meanwhile two others came and the files between went."""
    assert take(tmp_path, 3, record_of(OTHER_MACHINE))
    assert not take(tmp_path, 2, record_of(ProcessId.current()))
    assert read_lock(tmp_path).number == 3


def test_a_claim_that_cannot_be_read_does_not_keep_it_for_long(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "5.json").write_text('{"host": ')
    assert 0 < acquire_and_release(tmp_path) < TIMEOUTS.stale
    assert read_lock(tmp_path).number == 6


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def own(run: Path) -> RunLock:
    """This process's lock of a run that has none, with a quick heartbeat."""
    record = LockRecord.of_this_process({})
    assert take(run, 1, record)
    return RunLock(run, 1, record, heartbeat=0.05)


def test_an_owner_has_a_heartbeat_and_announces_that_it_stops(tmp_path: Path) -> None:
    held = own(tmp_path)
    first = read_lock(tmp_path)
    wait_until(lambda: read_lock(tmp_path).heartbeat != first.heartbeat)
    held.stop_reason = lambda: "signal SIGTERM"
    wait_until(lambda: (record := read_lock(tmp_path).record) is not None and record.stopping == "signal SIGTERM")
    held.release()
    assert json.loads((tmp_path / "lock" / "1.json").read_text())["released"]


def test_an_owner_that_counted_as_dead_learns_that_the_run_is_lost(tmp_path: Path) -> None:
    lost = threading.Event()
    held = own(tmp_path)
    held.on_lost = lost.set
    assert take(tmp_path, 2, record_of(OTHER_MACHINE))
    assert lost.wait(120)
    held.release()
    record = read_lock(tmp_path).record
    assert record is not None
    assert not record.released


def test_a_process_may_acquire_its_own_run_again(tmp_path: Path) -> None:
    lost = threading.Event()
    first = own(tmp_path)
    first.on_lost = lost.set
    second = acquire(tmp_path, {}, timeouts=TIMEOUTS)
    first._thread.join(120)  # it ends when it sees the second
    assert not first._thread.is_alive()
    assert not lost.is_set()
    second.release()
    first.release()


def test_a_full_disk_still_releases_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError("No space left on device")

    held = own(tmp_path)
    first = read_lock(tmp_path)
    monkeypatch.setattr(lock, "write_atomic", full)
    held.stop_reason = lambda: "signal SIGTERM"
    wait_until(lambda: read_lock(tmp_path).heartbeat != first.heartbeat)
    held.release()
    assert read_lock(tmp_path) == LockState()


def test_a_stop_request_ends_the_wait(tmp_path: Path) -> None:
    hold(tmp_path, record_of(OTHER_MACHINE))
    with handle_signals() as stop, pytest.raises(Stopped, match="signal SIGTERM"):
        acquire_and_release(tmp_path, meanwhile=lambda poll: stop.ask("signal SIGTERM"))
    shutil.rmtree(tmp_path / "lock")
