"""What a person is told of a run: where it stands, whether it lives, and what to type."""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from launch.record import LaunchRecord
from launch.run_state import inspect_run, inspect_runs, runs_below
from launch.stop import stop
from videomae.core.files import write_json
from videomae.core.processes import ProcessId
from videomae.run.liveness import STALE_SECONDS, LockRecord
from videomae.run.status import LauncherStatus, State, Status

GONE = 2**22 + 1  # above the largest process id


def process_of(pid: int) -> ProcessId:
    """The process that has the id now, or one that has ended."""
    return ProcessId.of(pid) or replace(ProcessId.current(), pid=pid)


def now(minutes_ago: float = 0) -> str:
    return (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat(timespec="seconds")


def write_status(
    run: Path, state: State, *, pid: int = GONE, host: str | None = None, minutes: float = 1, job: str | None = None
) -> None:
    """The status of a run and, while it is running, its lock."""
    (run / "lock").mkdir(parents=True, exist_ok=True)
    reason = {"failed": "OSError: disk full", "stopped": "Pretraining stopped"}.get(state)
    found = Status(
        state=state, step=40, total=100, host=host or socket.gethostname(), pid=pid, processes=2, started=now(minutes),
        updated=now(minutes), launcher=LauncherStatus("slurm" if job else "torchrun", job), reason=reason,
    )  # fmt: skip
    (run / "status.json").write_text(json.dumps(asdict(found)))
    process = process_of(pid) if host is None else ProcessId("another boot", pid, 1)
    record = replace(LockRecord.of_this_process({}), process=process, released=state != "running")
    write_json(run / "lock" / "1.json", asdict(record))


def write_launch(run: Path, *, kind: str = "slurm", job: str | None = "17", process: ProcessId | None = None) -> None:
    (run / "launch").mkdir(parents=True, exist_ok=True)
    launch = LaunchRecord(
        kind, "pretrain", "videomae launch", now(2), socket.gethostname(), process or process_of(GONE), job
    )
    (run / "launch/launch.json").write_text(json.dumps(asdict(launch)))


@pytest.fixture
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Commands of Slurm with given answers; a command without one is missing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def say(**answers: str) -> None:
        for name, text in answers.items():
            (folder / name).write_text(f'#!/bin/bash\necho "$@" >> {folder}/{name}.told\nprintf "{text}"\n')
            (folder / name).chmod(0o755)

    return say


@pytest.mark.parametrize(
    ("state", "found", "said"),
    [
        ("stopped", "stopped", "stopped and saved at step 40 of 100; the same command resumes it"),
        ("failed", "failed", "failed at step 40 of 100 (OSError: disk full); `videomae logs"),
        ("running", "broken", "ended at step 40 of 100 without reporting an exit"),
    ],
)
def test_runs_whose_processes_are_gone(tmp_path: Path, state: State, found: str, said: str) -> None:
    write_status(tmp_path / "run", state)
    assert (inspect_run(tmp_path / "run").state, inspect_run(tmp_path / "run").step) == (found, 40)
    assert said in inspect_run(tmp_path / "run").message


def test_new_finished_and_living_runs(tmp_path: Path) -> None:
    assert inspect_run(tmp_path / "none").state == "new"
    run = tmp_path / "run"
    write_status(run, "running", pid=os.getpid(), minutes=0)
    assert inspect_run(run).state == "running"
    assert f"process {os.getpid()}" in inspect_run(run).message
    write_status(run, "finished")
    (run / "summary.json").touch()
    assert inspect_run(run).state == "finished"
    write_launch(run, kind="torchrun", job=None, process=replace(ProcessId.current(), start=1))
    assert inspect_run(run).state == "finished", "another process has the launcher's id now"
    write_launch(run, kind="torchrun", job=None, process=ProcessId.current())
    assert inspect_run(run).state == "running"


def test_a_run_on_another_machine_is_alive_while_it_has_a_heartbeat(tmp_path: Path) -> None:
    write_status(tmp_path / "run", "running", host="elsewhere", minutes=1000)
    assert inspect_run(tmp_path / "run").state == "running"
    stale = time.time() - 2 * STALE_SECONDS
    os.utime(tmp_path / "run/lock/1.json", (stale, stale))
    assert inspect_run(tmp_path / "run").state == "broken"


def test_slurm_is_asked_once_for_all_runs(tmp_path: Path, slurm_says: Callable[..., None]) -> None:
    slurm_says(squeue="17|17|RUNNING|n[1-2]\\n18_0|19|PENDING|(Priority)\\n", sacct="NODE_FAIL\\n")
    for job in ("17", "18_0", "20"):
        write_launch(tmp_path / job, job=job)
    found = inspect_runs([tmp_path / job for job in ("17", "18_0", "20")])
    assert [one.state for one in found] == ["running", "waiting", "broken"]
    assert "Slurm's job 17: RUNNING (n[1-2])" in found[0].message
    assert "Slurm's job 18_0: PENDING (Priority)" in found[1].message
    assert "Slurm's job 20: NODE_FAIL" in found[2].message
    assert (tmp_path / "bin/squeue.told").read_text().count("\n") == 1
    slurm_says(squeue="")
    (tmp_path / "bin/squeue").write_text(
        "#!/bin/bash\necho 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1\n"
    )
    assert inspect_run(tmp_path / "17").state == "broken"


def test_a_run_that_went_on_by_hand_is_found_in_its_newer_job(tmp_path: Path, slurm_says: Callable[..., None]) -> None:
    slurm_says(squeue="30|30|RUNNING|n1\n", scancel="")
    write_launch(tmp_path / "run", job="17")
    write_status(tmp_path / "run", "running", host="n1", job="30")
    assert (inspect_run(tmp_path / "run").state, inspect_run(tmp_path / "run").job) == ("running", "30")
    stop(tmp_path / "run", now=True)
    assert (tmp_path / "bin/scancel.told").read_text() == "30\n"
    write_status(tmp_path / "run", "stopped", host="n1", job="30")
    assert inspect_run(tmp_path / "run").state == "stopped"


def test_where_slurm_is_not_its_runs_are_judged_by_their_status(
    tmp_path: Path, slurm_says: Callable[..., None]
) -> None:
    write_launch(tmp_path / "run")
    assert inspect_run(tmp_path / "run").alive, "it may wait in the queue that cannot be asked"
    assert "possibly, as Slurm's job 17; squeue is not on this machine" in inspect_run(tmp_path / "run").message
    write_status(tmp_path / "run", "running", host="n1")
    assert inspect_run(tmp_path / "run").state == "running"
    assert "squeue is not on this machine" in inspect_run(tmp_path / "run").message
    write_status(tmp_path / "run", "stopped", host="n1")
    assert inspect_run(tmp_path / "run").state == "stopped"


def test_stopping_under_slurm_holds_the_job_back(tmp_path: Path, slurm_says: Callable[..., None]) -> None:
    run = tmp_path / "run"
    write_launch(run)
    slurm_says(squeue="17|17|RUNNING|n1\\n", scancel="")
    assert "the run saves after its current step and exits" in stop(run)
    assert (run / "STOP").exists()
    assert (run / "launch/held").exists()
    assert not (tmp_path / "bin/scancel.told").exists()
    stop(run, now=True)
    assert (tmp_path / "bin/scancel.told").read_text() == "17\n"
    slurm_says(squeue="17|17|PENDING|(Dependency)\\n")
    assert "is cancelled" in stop(run)


def test_a_benchmark_is_stopped_in_the_row_that_is_at_work(tmp_path: Path) -> None:
    write_status(tmp_path / "rows/first", "finished", minutes=5)
    write_status(tmp_path / "rows/second", "running", pid=os.getpid(), minutes=0)
    assert inspect_run(tmp_path).state == "running"
    stop(tmp_path)
    assert (tmp_path / "rows/second/STOP").exists()
    assert not (tmp_path / "STOP").exists()


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run in"):
        stop(tmp_path)
    write_status(tmp_path / "run", "running", host="elsewhere")
    with pytest.raises(ValueError, match=r"runs on elsewhere; type this there"):
        stop(tmp_path / "run", now=True)
    with pytest.raises(ValueError, match="no folder"):
        list(runs_below(tmp_path / "none"))


def test_runs_are_found_below_folders(tmp_path: Path) -> None:
    for name in ("a", "deep/b"):
        write_status(tmp_path / name, "finished")
    write_status(tmp_path / "a/rows/inner", "finished")
    assert list(runs_below(tmp_path)) == [tmp_path / "a", tmp_path / "deep/b"]
