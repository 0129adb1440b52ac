"""Find the state of runs, wherever they were started: new, waiting, running, stopped, failed, broken or finished."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from launch import slurm
from launch.record import LaunchRecord, read_launch
from videomae.core.errors import UserError
from videomae.core.progress import print_wide, time_since
from videomae.run import status
from videomae.run.liveness import read_lock
from videomae.run.status import Status

State = Literal["new", "waiting", "running", "stopped", "failed", "broken", "finished"]
_RESULTS = ("summary.json", "benchmark.json")  # written last
_RUN_FILES = ("status.json", "launch", *_RESULTS)
_INNER_FOLDERS = {"launch", "checkpoints", "logs", "export", "rows", "reconstructions", "wandb", "lock"}


@dataclass(frozen=True)
class RunState:
    """The state of a run, with its progress, launcher and host as far as they are known."""

    run: str
    state: State
    step: int | None
    total: int | None
    kind: str | None
    job: str | None
    host: str | None
    updated: str | None  # ISO 8601, UTC
    message: str  # one sentence for the user, with what to type

    @property
    def alive(self) -> bool:
        return self.state in ("waiting", "running")


def inspect_run(run: Path) -> RunState:
    return inspect_runs([run])[0]


def inspect_runs(runs: Sequence[Path]) -> list[RunState]:
    """The states of several runs; Slurm is queried once."""
    known = [(run, read_launch(run), newest_status(run)) for run in runs]
    jobs = [job for _, launch, last in known for job in _jobs(launch, last)]
    try:
        queue: dict[str, str] | slurm.SlurmError = slurm.read_queue(jobs)
    except slurm.SlurmError as error:
        queue = error
    return [_find(run, launch, last, queue) for run, launch, last in known]


def _find(
    run: Path, launch: LaunchRecord | None, last: Status | None, queue: dict[str, str] | slurm.SlurmError
) -> RunState:
    state, detail = _state(run, launch, last, queue)
    jobs = _jobs(launch, last)
    queued = [job for job in jobs if not isinstance(queue, slurm.SlurmError) and job in queue]
    return RunState(
        run=str(run),
        state=state,
        step=last.step if last else None,
        total=last.total if last else None,
        kind=launch.kind if launch else (last.launcher.kind if last else None),
        job=next(iter((*queued, *jobs)), None),
        host=last.host if last else (launch.host if launch else None),
        updated=last.updated if last else None,
        message=_describe(run, state, detail, last),
    )


def newest_status(run: Path) -> Status | None:
    """The status of the run; of a benchmark, that of the row that was active last."""
    return status.read_status(active_run_dir(run) / status.FILE)


def active_run_dir(run: Path) -> Path:
    """The run directory that is active: `run`, or of a benchmark the row that was active last."""
    found = [
        (last.updated, file.parent)
        for file in (run / status.FILE, *run.glob(f"rows/*/{status.FILE}"))
        if (last := status.read_status(file)) is not None
    ]
    return max(found, default=("", run))[1]


def _jobs(launch: LaunchRecord | None, last: Status | None) -> list[str]:
    """The Slurm jobs that may run it: the one that was submitted, and one that was submitted by hand since."""
    jobs = [launch.job] if launch is not None and launch.job is not None else []
    # A run that was launched inside an allocation is not a job; its processes tell whether it is alive.
    if (launch is None or jobs) and last is not None and last.state == "running" and last.launcher.kind == "slurm":
        jobs += [last.launcher.job] if last.launcher.job is not None else []
    return list(dict.fromkeys(jobs))


def _state(
    run: Path, launch: LaunchRecord | None, last: Status | None, queue: dict[str, str] | slurm.SlurmError
) -> tuple[State, str]:
    """The state, and the evidence for it if that is not the status."""
    if launch is None and last is None:
        return ("finished", "") if _finished(run) else ("new", "")
    jobs = _jobs(launch, last)
    if not jobs:
        if _is_alive(run, launch):
            return "running", ""
    elif isinstance(queue, slurm.SlurmError):
        if last is None and not _finished(run):
            return "running", f"possibly, as Slurm's job {jobs[-1]}; {queue}"
        if last is not None and last.state == "running" and read_lock(active_run_dir(run)).is_alive():
            return "running", f"Slurm's job {jobs[-1]} according to its status; {queue}"
    elif entries := [(job, queue[job]) for job in jobs if job in queue]:
        job, entry = entries[-1]
        return ("waiting" if entry.startswith("PENDING") else "running"), f"Slurm's job {job}: {entry}"
    if _finished(run):
        return "finished", ""
    if launch is not None and launch.members:
        return "new", ""  # an array that has ended: its runs have states of their own
    if last is None or last.state == "running":
        detail = ""
        if isinstance(queue, slurm.SlurmError) and jobs:
            detail = f" ({queue})"
        elif jobs:
            detail = f" (Slurm's job {jobs[-1]}: {slurm.read_final_state(jobs[-1])})"
        return "broken", detail
    return ("failed" if last.state == "failed" else "stopped"), ""


def _finished(run: Path) -> bool:
    return any((run / name).exists() for name in _RESULTS)


def _is_alive(run: Path, launch: LaunchRecord | None) -> bool:
    """Whether the launcher runs on this machine, or the run's processes run anywhere."""
    return (launch is not None and launch.process.is_alive() is True) or read_lock(active_run_dir(run)).is_alive()


def _describe(run: Path, state: State, detail: str, last: Status | None) -> str:
    at = f"step {last.step} of {last.total or '?'}" if last else "its start"
    where = detail or (f"process {last.pid} on {last.host}" if last else "its launcher")
    reason = f" ({last.reason})" if last and last.reason else ""
    name = shlex.quote(str(run))
    logs = f"`videomae logs {name}` shows its output"
    return {
        "new": f"{run} contains no run",
        "waiting": f"{run} is waiting: {where}. To cancel it: videomae stop {name}",
        "running": f"{run} is running at {at}: {where}. To see it: videomae logs {name} -f; to end it: "
        f"videomae stop {name}",
        "stopped": f"{run} stopped and saved at {at}; the same command resumes it",
        "failed": f"{run} failed at {at}{reason}; {logs}, and the same command resumes from its newest checkpoint",
        "broken": f"{run} ended at {at} without reporting an exit{detail}; {logs}, and the same command resumes "
        "from its newest checkpoint",
        "finished": f"{run} is finished; remove the folder to start it again",
    }[state]


def print_status(folders: Iterable[Path], *, as_json: bool) -> None:
    """Print the runs in `folders`, each a run or a folder of runs, with the message of those that failed."""
    runs = [run for folder in folders for run in runs_below(folder)]
    found = [state for state in inspect_runs(runs) if state.state != "new"]
    if as_json:
        sys.stdout.write(json.dumps([asdict(state) for state in found], indent=1) + "\n")
        return
    print_wide(_table(found))
    for state in found:
        if state.state in ("failed", "broken"):
            sys.stdout.write(f"{state.message}\n")


def runs_below(folder: Path) -> Iterator[Path]:
    """`folder` if it is a run, else the runs below it.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; runs are below runs/, or where `run` in their configs points")
    for path, names, files in os.walk(folder):
        if not {*names, *files}.isdisjoint(_RUN_FILES):
            yield Path(path)
        names[:] = sorted(name for name in names if name not in _INNER_FOLDERS and not name.startswith("launch."))


def _table(found: Sequence[RunState]) -> Table:
    table = Table()
    for heading in ("run", "state", "step", "launcher", "host", "updated"):
        table.add_column(heading, overflow="fold")
    for state in found:
        table.add_row(
            state.run,
            state.state,
            "" if state.step is None else f"{state.step}/{state.total or '?'}",
            " ".join(filter(None, [state.kind, state.job])),
            state.host or "",
            "" if state.updated is None else f"{time_since(state.updated)} ago",
        )
    return table
