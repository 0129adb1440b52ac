"""What a launch leaves in the run's directory, so that others can see, follow and stop the run wherever it was started.

RUN/launch/
  launch.json       what was typed, where, and the job's number: see `Launch`
  config.yaml       the resolved config that the processes read
  code/             the packages as they were, with their git state
  job.sh task.sh    the scripts of Slurm; host.sh, rank.sh, hostfile: those of other launchers
  host-N.pid        the process that started the others on host N, and when it began
  exit              the last exit code of a Slurm job
  held              there after `stop`: a job that saved does not come back by itself
RUN/launch.1/ ...   those of earlier launches of the run
"""

from __future__ import annotations

import json
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launch import snapshot
from videomae.core.config import dump
from videomae.core.errors import UserError
from videomae.core.files import file_lock, write_json
from videomae.core.processes import ProcessId
from videomae.core.progress import logger


@dataclass(frozen=True)
class LaunchRecord:
    """What is known of the last launch of a run."""

    kind: str  # local, torchrun, deepspeed or slurm
    module: str
    command: str  # what was typed
    submitted: str  # ISO 8601, UTC
    host: str  # where it was typed
    process: ProcessId  # of `videomae launch` there, which stays while the ranks run; not so under Slurm
    job: str | None = None  # Slurm's number; of one task of an array: NUMBER_TASK
    hosts: tuple[str, ...] = ()  # of processes that were started over ssh
    ssh: tuple[str, ...] = ()  # the words that reach them
    commit: str | None = None  # of the code
    members: tuple[str, ...] = ()  # of an array: the folders of its runs


@dataclass(frozen=True)
class LaunchDir:
    """Where a run lies and where its relative paths start; both absolute."""

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

    @property
    def held(self) -> Path:
        return self.record / "held"

    @property
    def stop(self) -> Path:
        return self.run / "STOP"

    def make(self, settings: Any, scripts: Mapping[str, str], *, code: bool = True) -> str | None:
        """Write the record of a new launch; an earlier one is kept under a number. Returns the commit of the code."""
        self.run.mkdir(parents=True, exist_ok=True)
        if self.record.exists():
            numbers = (count for count in range(1, 1_000_000) if not self.run.joinpath(f"launch.{count}").exists())
            self.record.rename(self.run / f"launch.{next(numbers)}")
        self.record.mkdir()
        (self.run / "logs").mkdir(exist_ok=True)
        self.stop.unlink(missing_ok=True)
        self.config.write_text(dump(settings))
        for name, text in scripts.items():
            (self.record / name).write_text(text)
            (self.record / name).chmod(0o755 if name.endswith(".sh") else 0o644)
        return snapshot.copy_packages(self.code).commit if code else None

    def note(self, kind: str, module: str, **values: Any) -> LaunchRecord:
        """Write launch.json for what this process has started."""
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
    """Look at a run and note its new launch with nobody else between: who looks meanwhile is refused.

    Raises:
        UserError: somebody else is at it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(run / ".launching", blocking=False))
        except BlockingIOError:
            raise UserError(
                f"{run} is being launched by somebody else at this moment; wait, then type "
                f"`videomae status {shlex.quote(str(run))}`"
            ) from None
        except OSError as error:  # a filesystem without locks; the run's own processes look as well (health.owner)
            logger.debug("%s cannot be locked: %s", run, error)
        yield


def read_launch(run: Path) -> LaunchRecord | None:
    """The last launch of the run in the folder `run`, or None if it was not started by `videomae launch`."""
    try:
        values = json.loads((run / "launch" / "launch.json").read_text())
        lists = {name: tuple(values.get(name, ())) for name in ("hosts", "ssh", "members")}
        return LaunchRecord(**{**values, **lists, "process": ProcessId(**values["process"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
