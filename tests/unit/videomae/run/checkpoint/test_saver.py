"""When a run saves, synchronously or not, and how many failures it tolerates."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import world_of_one
from videomae.core.progress import logger
from videomae.run.checkpoint import CheckpointConfig, CheckpointStore, SaveError, Saver, SaveReport
from videomae.run.checkpoint.staging import becomes_true


class Disk:
    """A fake engine whose state is one file, on a disk that may be full or slow."""

    bytes = 100

    def __init__(self) -> None:
        self.full = False
        self.gate = threading.Event()
        self.gate.set()
        self.value = 0

    def snapshot(self, earlier: "Disk | None" = None) -> "Disk":
        copy = Disk()
        copy.full, copy.gate, copy.value = self.full, self.gate, self.value
        return copy

    def write(self, folder: Path) -> None:
        assert self.gate.wait(300)
        if self.full:
            raise OSError(28, "No space left on device")
        (folder / "state").write_text(str(self.value))


def saver(folder: Path, disk: Disk, reports: list[SaveReport] | None = None, *, every: int = 10, **config) -> Saver:
    store = CheckpointStore(folder, world=world_of_one(), keep=9)
    report = (lambda entry: None) if reports is None else reports.append
    return Saver(store, CheckpointConfig(**config), every=every, snapshot=disk.snapshot, report=report)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a background thread, generously."""
    assert becomes_true(condition, timeout=300)


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def test_a_full_disk_alarms_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, reports = Disk(), []
    ours = saver(tmp_path, disk, reports, every=100, failures=2)
    monkeypatch.setattr(logger, "propagate", True)
    saved = []
    for step in range(1, 501):
        disk.full = 150 < step < 325
        if ours.due(step):
            saved.append(step)
            ours.save({"step": step})
    assert steps(tmp_path) == [100, 330, 400, 500]  # tried again every tenth of the interval
    assert [report.step for report in reports if report.fault] == [200, *range(210, 330, 10)]
    alarms = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert any("ALARM at step 300 (failure 2 in a row)" in alarm for alarm in alarms)
    assert "No space left" in alarms[0]


def test_a_run_that_cannot_save_stops(tmp_path: Path) -> None:
    disk = Disk()
    disk.full = True
    ours = saver(tmp_path, disk, every=100, failures=2)
    for step in range(100, 300, 10):
        if ours.due(step):
            ours.save({"step": step})
    with pytest.raises(SaveError, match="No space left"):
        ours.save({"step": 300})


def test_a_failed_save_at_a_stop_is_an_error(tmp_path: Path) -> None:
    disk = Disk()
    disk.full = True
    with pytest.raises(SaveError, match="No space left"):
        saver(tmp_path, disk, failures=5).save({"step": 7}, must=True)


def test_an_asynchronous_save_holds_the_state_of_its_step(tmp_path: Path) -> None:
    disk, reports = Disk(), []
    ours = saver(tmp_path, disk, reports, asynchronous=True)
    disk.gate.clear()
    disk.value = 10
    ours.save({"step": 10})
    disk.value = 11  # training goes on
    assert ours.pending
    assert ours.busy
    assert not ours.failed
    assert steps(tmp_path) == []
    ours.poll(busy=True, failed=False)
    assert ours.pending
    disk.gate.set()
    wait_until(lambda: not ours.busy)
    ours.poll(busy=False, failed=False)
    assert not ours.pending
    assert steps(tmp_path) == [10]
    assert (tmp_path / "step-00000010" / "state").read_text() == "10"
    assert 0 < reports[0].blocked_seconds <= reports[0].seconds


def test_an_asynchronous_failure_is_raised_at_the_next_step(tmp_path: Path) -> None:
    disk = Disk()
    disk.full = True
    ours = saver(tmp_path, disk, asynchronous=True, failures=0)
    ours.save({"step": 10})
    wait_until(lambda: ours.failed)
    with pytest.raises(SaveError, match="No space left"):
        ours.poll(busy=False, failed=True)


def test_a_stop_waits_for_the_pending_save_and_saves_no_step_twice(tmp_path: Path) -> None:
    disk, reports = Disk(), []
    ours = saver(tmp_path, disk, reports, asynchronous=True)
    ours.save({"step": 10})
    ours.save({"step": 10}, must=True)
    assert [report.step for report in reports] == [10]
    ours.save({"step": 20})
    ours.save({"step": 25}, must=True)
    assert steps(tmp_path) == [10, 20, 25]
    assert ours.saved == 25


@pytest.mark.parametrize("setting", [{"keep": 0}, {"failures": -1}, {"deadline": 0.0}, {"resume": ""}])
def test_settings_that_make_no_sense(setting: dict) -> None:
    with pytest.raises(ValueError, match=rf"CheckpointConfig\n{next(iter(setting))}\n"):
        CheckpointConfig(**setting)
