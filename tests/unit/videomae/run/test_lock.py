"""One start of a run at a time: who lives keeps it, who is dead never stands in the way, and one of many gets it."""

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
from videomae.run import claims
from videomae.run.claims import NONE, LockRecord, RunLock
from videomae.run.lock import LockTimeouts, RunOwnedError, acquire
from videomae.run.status import LauncherStatus

QUICK = LockTimeouts(silence=0.9, leaving=5.0)
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


def claim_of(process: ProcessId, **values: object) -> LockRecord:
    about = LockRecord("node7", process, (), LauncherStatus("slurm", "4242"), (0, 0), "2026-01-01T00:00:00+00:00")
    return replace(about, **values)


def hold(run: Path, claim: LockRecord) -> Path:
    """Another start's claim, the run's first; gives its file."""
    assert claims.take(run, 1, claim)
    return run / "owner" / "1.json"


def started(run: Path, environment: dict[str, str] | None = None, patience: LockTimeouts = QUICK) -> float:
    """Own the run and give it free; the seconds that it took."""
    began = time.monotonic()
    acquire(run, environment or {}, patience=patience).release()
    return time.monotonic() - began


@contextmanager
def beating(file: Path, *, times: int = 10_000) -> Iterator[None]:
    """Another machine's sign of life, again and again."""
    ended = threading.Event()

    def beat() -> None:
        for _ in range(times):
            if ended.wait(QUICK.beat):
                return
            os.utime(file)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_run_that_nobody_has_is_taken_and_given_free(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "new"
    owner = acquire(run, {"SLURM_JOB_ID": "7"}, patience=QUICK)
    claim = claims.read_lock(run).claim
    assert claim is not None
    assert (claim.process, claim.launcher, claim.over) == (ProcessId.this(), LauncherStatus("slurm", "7"), False)
    owner.release()
    assert started(run) < 0.5
    assert sorted(path.name for path in (run / "owner").iterdir()) == ["2.json"]


def test_one_who_lives_on_this_machine_keeps_it(tmp_path: Path) -> None:
    with sleeper() as process:
        file = hold(tmp_path, claim_of(of(process.pid)))
        before, began = file.read_text(), time.monotonic()
        with pytest.raises(RunOwnedError) as refused:
            started(tmp_path, patience=LockTimeouts(silence=45, leaving=140))
        assert time.monotonic() - began < 0.5
        for word in (f"process {process.pid} on node7", "slurm job 4242", "2026-01-01", "launch stop", "wait", "run="):
            assert word in str(refused.value)
        assert file.read_text() == before
        assert len(list((tmp_path / "owner").iterdir())) == 1


def dead() -> ProcessId:
    with sleeper() as process:
        return of(process.pid)


def number_of_another() -> ProcessId:
    """The number of a process that lives, and began after the one that is meant."""
    return replace(of(os.getppid()), start=1)


@pytest.mark.parametrize("process", [dead, number_of_another])
def test_the_dead_do_not_keep_it(tmp_path: Path, process: Callable[[], ProcessId]) -> None:
    hold(tmp_path, claim_of(process()))
    assert started(tmp_path) < 0.5


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    with sleeper() as process:
        meant = of(process.pid)
        hold(tmp_path, claim_of(meant))
        process.kill()
        while stat_fields(process.pid)[0] != "Z":
            time.sleep(0.01)
        assert meant.lives() is False
        assert started(tmp_path) < 0.5


@pytest.mark.parametrize("since", ["2001-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00"])
def test_one_on_another_machine_keeps_it_as_long_as_it_gives_signs_of_life(tmp_path: Path, since: str) -> None:
    """Whatever the clocks say."""
    file = hold(tmp_path, claim_of(OTHER_MACHINE, since=since))
    os.utime(file, (0, 0) if since < "2026" else (4e9, 4e9))
    with beating(file), pytest.raises(RunOwnedError, match="it has just given a sign of life"):
        started(tmp_path)


def test_one_on_another_machine_that_is_silent_is_dead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hold(tmp_path, claim_of(OTHER_MACHINE, since="2099-01-01T00:00:00+00:00"))
    with caplog.at_level(logging.WARNING, "videomae"):
        assert QUICK.silence <= started(tmp_path) < 3 * QUICK.silence
    assert "waiting for a sign of life, up to 1 s" in caplog.text
    assert "is taken for dead" in caplog.text


def test_one_on_another_machine_may_die_while_it_is_watched(tmp_path: Path) -> None:
    file = hold(tmp_path, claim_of(OTHER_MACHINE))
    with beating(file, times=3):
        assert started(tmp_path) > QUICK.silence


@pytest.mark.parametrize("how", ["its launcher is dead", "it was asked to stop"])
def test_one_who_leaves_is_waited_for(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    orphan = {"launchers": (dead(),)} if "launcher" in how else {"leaving": "signal SIGTERM"}
    with sleeper() as process, caplog.at_level(logging.WARNING, "videomae"):
        hold(tmp_path, claim_of(of(process.pid), **orphan))
        threading.Timer(1.0, process.kill).start()
        assert 0.9 < started(tmp_path) < 4
    assert "waiting up to 5 s until it has left" in caplog.text


def test_one_who_should_leave_and_does_not_keeps_it(tmp_path: Path) -> None:
    with sleeper() as process:
        hold(tmp_path, claim_of(of(process.pid), leaving="signal SIGTERM"))
        with pytest.raises(RunOwnedError, match=r"still there after 1 s \(it is being stopped \(signal SIGTERM\)\)"):
            started(tmp_path, patience=LockTimeouts(silence=0.9, leaving=1.0))


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
        hold(tmp_path, claim_of(of(process.pid)))
        threading.Timer(0.5, process.kill).start()
        if follows:
            assert started(tmp_path, environment) > 0.4
        else:
            with pytest.raises(RunOwnedError):
                started(tmp_path, environment)


def test_workers_that_one_launcher_starts_again_follow_each_other() -> None:
    launcher = of(os.getppid())
    mine, other = claim_of(ProcessId.this(), launchers=(launcher,)), claim_of(OTHER_MACHINE, launchers=(launcher,))
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
    hold(tmp_path, claim_of(dead()))
    with ThreadPoolExecutor(16) as pool:
        claim = claim_of(ProcessId.this())
        won = list(pool.map(lambda _: claims.take(tmp_path, 2, claim), range(200)))
    assert sum(won) == 1
    assert claims.read_lock(tmp_path).number == 2


def test_a_number_below_the_highest_is_not_won(tmp_path: Path) -> None:
    """As by one who listed the folder, was held up, and meanwhile two others came and the files between went."""
    assert claims.take(tmp_path, 3, claim_of(OTHER_MACHINE))
    assert not claims.take(tmp_path, 2, claim_of(ProcessId.this()))
    assert claims.read_lock(tmp_path).number == 3


def test_a_claim_that_cannot_be_read_does_not_keep_it_for_long(tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "5.json").write_text('{"host": ')
    assert QUICK.look < started(tmp_path) < 3
    assert claims.read_lock(tmp_path).number == 6


def wait_until(come: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not come():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_an_owner_gives_signs_of_life_and_says_that_it_leaves(tmp_path: Path) -> None:
    owner = acquire(tmp_path, {}, patience=QUICK)
    first = claims.read_lock(tmp_path)
    wait_until(lambda: claims.read_lock(tmp_path).sign != first.sign)
    owner.leaving = lambda: "signal SIGTERM"
    wait_until(lambda: (claim := claims.read_lock(tmp_path).claim) is not None and claim.leaving == "signal SIGTERM")
    owner.release()
    assert json.loads((tmp_path / "owner" / "1.json").read_text())["over"]


def test_an_owner_that_was_held_for_dead_hears_that_the_run_is_lost(tmp_path: Path) -> None:
    lost = threading.Event()
    owner = RunLock(tmp_path, 1, claim_of(ProcessId.this()), beat=0.05)
    owner.lost = lost.set
    assert claims.take(tmp_path, 2, claim_of(OTHER_MACHINE))
    assert lost.wait(10)
    owner.release()
    claim = claims.read_lock(tmp_path).claim
    assert claim is not None
    assert not claim.over


def test_a_process_that_opens_its_own_run_again_is_not_in_its_own_way(tmp_path: Path) -> None:
    lost = threading.Event()
    first = acquire(tmp_path, {}, patience=QUICK)
    first.lost = lost.set
    assert started(tmp_path) < 0.5
    assert not lost.wait(3 * QUICK.beat)
    first.release()


def test_a_full_disk_frees_the_run_nevertheless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError("No space left on device")

    owner = acquire(tmp_path, {}, patience=QUICK)
    first = claims.read_lock(tmp_path)
    monkeypatch.setattr(claims, "write_atomic", full)
    owner.leaving = lambda: "signal SIGTERM"
    wait_until(lambda: claims.read_lock(tmp_path).sign != first.sign)  # it still gives signs of life
    owner.release()
    assert claims.read_lock(tmp_path) == NONE


def test_a_stop_ends_the_waiting(tmp_path: Path) -> None:
    hold(tmp_path, claim_of(OTHER_MACHINE))
    with handle_signals() as stop:
        threading.Timer(0.3, lambda: stop.ask("signal SIGTERM")).start()
        with pytest.raises(Stopped, match="signal SIGTERM"):
            acquire(tmp_path, {}, patience=LockTimeouts(silence=45, leaving=140))
    shutil.rmtree(tmp_path / "owner")
