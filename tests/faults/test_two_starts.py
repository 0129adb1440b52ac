"""The same command twice: the second start leaves the first alone; after a crash it is the one that goes on."""

import signal
from pathlib import Path

import pytest

from tests.faults.started import finetune, start
from tests.processes import call, run_processes
from tests.stages import losses
from videomae.run.liveness import read_lock
from videomae.run.status import FILE, read_status

pytestmark = pytest.mark.slow

SETTINGS = (
    "schedule.duration=1000 steps",
    "evaluation.every=1000 steps",
    "checkpoint.every=4 steps",
    "engine.kind=deepspeed",
)


def touched(run: Path) -> dict[str, int]:
    """When each file was last written, of those that only a start writes."""
    names = ("config.yaml", "environment.json", "inputs.json", "cost.json", "ds_config.json")
    return {name: (run / name).stat().st_mtime_ns for name in names}


def test_a_second_start_is_refused_and_the_first_goes_on(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stage, *words = finetune(run, shards, *SETTINGS)
    first = start(run, (stage, *words), on="torchrun", seconds={"step": 0.2})
    try:
        first.wait_until(lambda: len(losses(run)) > 1)
        owner, before = read_lock(run).record, touched(run)
        assert owner is not None
        said = call(stage, *words, expect=2)
        assert f"error: {run} is owned by process {owner.process.pid} on {owner.host}, torchrun job" in said
        assert "videomae stop" in said
        said = run_processes(2, stage, *words, expect=1)  # torchrun makes 1 of the 2
        assert said.count(f"error: {run} is owned by process {owner.process.pid}") == 2  # no rank hangs
        assert touched(run) == before
        done = len(losses(run))
        first.wait_until(lambda: len(losses(run)) > done + 8)  # two saves
        assert first.signal(signal.SIGTERM) == 1, first.said
        assert "another start of this run" not in first.log.read_text()
    finally:
        first.kill()
    status, lock = read_status(run / FILE), read_lock(run).record
    assert status is not None
    assert status.state == "stopped"
    assert lock is not None
    assert lock.released


@pytest.mark.parametrize("killed", ["launcher", "all"])
def test_after_a_kill_the_same_command_goes_on(shards: Path, tmp_path: Path, killed: str) -> None:
    """Also when the workers of a killed launcher still save."""
    run, gate = tmp_path / "run", tmp_path / "gate"
    words = finetune(run, shards, *SETTINGS)
    first = start(run, words, on="torchrun", seconds={"step": 0.2}, until={"save2": str(gate)})
    try:
        first.wait_until(lambda: len(losses(run)) > 4)
        if killed == "all":
            first.kill()
        else:
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
        again = start(run, words, on="torchrun", seconds={"step": 0.2})
        try:
            if killed == "launcher":
                again.wait_until(lambda: "waiting up to 140 s until it has left" in again.log.read_text())
                gate.touch()
            again.wait_until(lambda: "resumes at step" in again.log.read_text())
            said = again.log.read_text()
            assert ("waiting up to" in said) == (killed == "launcher"), said
            assert not first.left()
            again.signal(signal.SIGTERM)
        finally:
            again.kill()
    finally:
        first.kill()
    status = read_status(run / FILE)
    assert status is not None
    assert status.state == "stopped"
