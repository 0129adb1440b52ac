"""The record of a launch in the run directory, by which status, logs and stop find the run on any machine.

RUN/launch/
  launch.json       command, host and job id: see `LaunchRecord`
  config.yaml       the resolved config that the processes read
  code/             a copy of the packages, so that a resumed run does not depend on later edits; snapshot.json holds
                    their git state, diff.patch their uncommitted changes
  job.sh task.sh    the scripts of a Slurm job; host.sh, rank.sh, hostfile: those of other launchers
  host-N.pid        the first process on host N, and its start time
  exit              the last exit code of a Slurm job
  held              created by `stop`: the job is not requeued
RUN/launch.1/ ...   the records of earlier launches
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic

from videomae.core.config import dump
from videomae.core.errors import UserError
from videomae.core.files import file_lock, write_json
from videomae.core.processes import ProcessId
from videomae.run.directory import CODE_ROOT, PACKAGES, RunDirectory, git


@dataclass(frozen=True)
class LaunchRecord:
    """The last launch of a run."""

    kind: str  # local, torchrun, deepspeed or slurm
    module: str
    command: str  # what was typed
    submitted: str  # ISO 8601, UTC
    host: str  # where it was typed
    process: ProcessId  # of `videomae launch`, which runs as long as the ranks do, except under Slurm
    job: str | None = None  # Slurm's job id; of a task of an array: ID_TASK
    hosts: tuple[str, ...] = ()  # of processes that were started over ssh
    ssh: tuple[str, ...] = ()  # the words that reach them
    members: tuple[str, ...] = ()  # of an array: the run directories of its tasks


@dataclass(frozen=True)
class LaunchDir:
    """The paths of a launch. Both fields are absolute; relative paths of the config start from `root`."""

    root: Path
    run: Path

    @property
    def record(self) -> Path:
        return self.run / "launch"

    @property
    def code(self) -> Path:
        return self.record / "code"

    @property
    def config(self) -> Path:
        return self.record / "config.yaml"

    def make(self, settings: Any, scripts: Mapping[str, str], *, code: bool = True) -> None:
        """Write config, scripts and code of a new launch, keep an earlier one as launch.N."""
        self.run.mkdir(parents=True, exist_ok=True)
        if self.record.exists():
            numbers = (count for count in range(1, 1_000_000) if not self.run.joinpath(f"launch.{count}").exists())
            self.record.rename(self.run / f"launch.{next(numbers)}")
        self.record.mkdir()
        (self.run / "logs").mkdir(exist_ok=True)
        RunDirectory(self.run).stop_file.unlink(missing_ok=True)
        self.config.write_text(dump(settings))
        for name, text in scripts.items():
            (self.record / name).write_text(text)
            (self.record / name).chmod(0o755 if name.endswith(".sh") else 0o644)
        if code:
            copy_packages(self.code)

    def note(self, kind: str, module: str, **values: Any) -> LaunchRecord:
        """Write launch.json for the processes or the job of this launch."""
        launch = LaunchRecord(
            kind=kind,
            module=module,
            command=shlex.join(["videomae", *sys.argv[1:]]),
            submitted=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            process=ProcessId.current(),
            **values,
        )
        write_json(self.record / "launch.json", asdict(launch))
        return launch


@contextmanager
def launch_lock(run: Path) -> Iterator[None]:
    """Hold the lock under which a run is inspected and its new launch is recorded.

    Raises:
        UserError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(run / ".launching", blocking=False, required=False))
        except BlockingIOError:
            raise UserError(
                f"{run} is being launched by another process; wait, then type `videomae status {shlex.quote(str(run))}`"
            ) from None
        yield


def read_launch(run: Path) -> LaunchRecord | None:
    """The last launch of the run in the folder `run`, or None if `videomae launch` did not start it."""
    try:
        return pydantic.TypeAdapter(LaunchRecord).validate_json((run / "launch" / "launch.json").read_bytes())
    except (OSError, pydantic.ValidationError):
        return None


def copy_packages(target: Path) -> None:
    """Copy the packages of this project as they are on disk into the new folder `target`."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES)
    if listed is None:  # installed, not checked out
        found = [file for package in PACKAGES for file in (CODE_ROOT / package).rglob("*.*")]
        names = [str(file.relative_to(CODE_ROOT)) for file in found]
    else:
        names = listed.split("\0")
    files = [name for name in names if "__pycache__" not in name and (CODE_ROOT / name).is_file()]
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CODE_ROOT / name, target / name)
    changed = (git("status", "--porcelain", "-uall", "--", *PACKAGES) or "").splitlines()
    state: dict[str, Any] = {
        "source": str(CODE_ROOT),
        "commit": git("rev-parse", "HEAD"),
        "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
        "changed": [line[3:] for line in changed],  # files that differ from the commit, untracked ones too
        "files": len(files),
    }
    write_json(target / "snapshot.json", state)
    patch = git("diff", "HEAD", "--", *PACKAGES)
    (target / "diff.patch").write_bytes(os.fsencode(f"{patch}\n" if patch else ""))
