"""The checkpoints of one run on disk: whole or not there, staged by all ranks and renamed into place by the first.

step-00001200/            whole: the engine's files, progress.json, manifest.json
latest                    the name of the newest, for people and scripts; loading looks at the folders themselves
damaged-step-00001100/    set aside by a load, which said why; never read and never removed
abandoned-step-00001300/  later than a step to which the run was rolled back; never read and never removed
.staging/                 one in the making (staging.py)
.replaced/, .removed-*/   older ones on their way out; what a kill left of these is put right by the next start
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from videomae.core.distributed import World
from videomae.core.files import sync_path, write_atomic
from videomae.core.progress import logger
from videomae.run.checkpoint import manifest
from videomae.run.checkpoint.keep import outdated
from videomae.run.checkpoint.manifest import MANIFEST, PROGRESS, FileRecord
from videomae.run.checkpoint.staging import STAGING, SaveError, Staging

LATEST = "latest"
DAMAGED = "damaged-"
ABANDONED = "abandoned-"
_REPLACED = ".replaced"
_REMOVED = ".removed-"
_STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    progress: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.progress["step"])

    @property
    def batches(self) -> int:
        """Batches of data used up: the steps, and what was skipped."""
        return int(self.progress.get("batches", self.step))


class CheckpointStore:
    """The checkpoints below one folder; every public method is called by all ranks."""

    def __init__(
        self, folder: Path, *, world: World, keep: int, keep_every: int | None = None, sweep_beside: bool = False
    ) -> None:
        self.folder = folder
        self.world = world
        self._keep, self._keep_every = keep, keep_every
        self._sweep_beside = sweep_beside  # remove old ones in a thread
        self._sweeper: threading.Thread | None = None

    def save(self, progress: Mapping[str, Any], write: Callable[[Path], None], *, size: int = 0) -> Path:
        """Commit a checkpoint; `write(folder)` writes this rank's `size` bytes, `progress` must have `step`.

        Raises:
            SaveError: a rank could not write; nothing new is left, and every rank raises.
        """
        staging = self.stage(progress)
        staging.prepare(lambda: size)
        return self.commit(staging, staging.agree(staging.fill(write)))

    def stage(self, progress: Mapping[str, Any]) -> Staging:
        """The staging folder of the next checkpoint; not made yet."""
        return Staging(self.folder / STAGING, self.world, progress)

    def commit(self, staging: Staging, files: Mapping[str, FileRecord]) -> Path:
        """Make the staged `files` the checkpoint of its step, and remove what is outdated.

        Raises:
            SaveError: as in `save`.
        """
        target = self.folder / step_name(int(staging.progress["step"]))
        fault = None
        if self.world.is_main:
            try:
                self._commit(staging, target, files)
            except OSError as error:
                fault = str(error)
        fault = self.world.broadcast_object(fault)
        if fault is not None:
            staging.discard()
            raise SaveError(f"checkpoint {target.name} not saved, earlier ones are kept: rank 0: {fault}")
        return target

    def set_aside_after(self, step: int) -> None:
        """Rename the checkpoints later than `step`: the run went back, and they are of a course that it gave up."""

        def rename() -> None:
            for name in reversed(step_names(self.folder)):
                if step_of(name) > step:
                    moved = set_aside(self.folder / name, prefix=ABANDONED)
                    logger.warning("the run goes back to step %d; %s is now %s", step, name, moved.name)

        self.world.main_only(rename)

    def rest(self) -> None:
        """Wait until what is outdated is removed, where that is done beside the training."""
        if self._sweeper is not None:
            self._sweeper.join()

    def mend(self) -> None:
        """Put right what a kill in the middle of a save left behind; called before anything is looked for.

        The caller is the run's owner: nobody else saves.
        """
        self.world.main_only(self._mend)

    def _commit(self, staging: Staging, target: Path, files: Mapping[str, FileRecord]) -> None:
        staging.check()
        about = {"step": staging.progress["step"], "saved": datetime.now(UTC).isoformat(timespec="seconds")}
        write_atomic(staging.folder / MANIFEST, manifest.to_text(files, **about), sync=True)
        staging.seal()
        sync_path(staging.folder)
        replaced = self.folder / _REPLACED
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        staging.folder.rename(target)
        sync_path(self.folder)
        self._tidy(target)

    def _tidy(self, target: Path) -> None:
        """What follows a commit; if it fails, the checkpoint stands nevertheless."""
        try:
            self._point(target.name)
            shutil.rmtree(self.folder / _REPLACED, ignore_errors=True)
            steps = [step_of(name) for name in step_names(self.folder)]
            for step in outdated(steps, newest=step_of(target.name), keep=self._keep, keep_every=self._keep_every):
                name = step_name(step)
                (self.folder / name).rename(self.folder / f"{_REMOVED}{name}")
        except OSError as error:
            logger.warning("%s is saved, but what is outdated could not be removed: %s", target, error)
        self.rest()
        if self._sweep_beside:
            self._sweeper = threading.Thread(target=self._sweep, name="checkpoint-sweep", daemon=True)
            self._sweeper.start()
        else:
            self._sweep()

    def _point(self, name: str) -> None:
        write_atomic(self.folder / LATEST, f"{name}\n")

    def _sweep(self) -> None:
        for folder in self.folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _mend(self) -> None:
        self._sweep()
        shutil.rmtree(self.folder / STAGING, ignore_errors=True)  # it may be as large as a whole one
        (self.folder / f".{LATEST}.part").unlink(missing_ok=True)  # of a killed write
        replaced = self.folder / _REPLACED
        if not replaced.is_dir():
            return
        try:
            target = self.folder / step_name(int(json.loads((replaced / PROGRESS).read_text())["step"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is left over and unreadable: %s", replaced, error)
            return
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(target)


def step_name(step: int) -> str:
    """The folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    """The step of a folder called `name`."""
    return int(name.removeprefix("step-"))


def step_names(folder: Path) -> list[str]:
    """The names of the checkpoints in `folder`, oldest first."""
    found = [path.name for path in folder.glob("step-*") if path.is_dir() and _STEP.fullmatch(path.name)]
    return sorted(found, key=step_of)


def set_aside(folder: Path, *, prefix: str = DAMAGED) -> Path:
    """Rename a checkpoint that is not to be used again; gives its new path."""
    target, number = folder.with_name(f"{prefix}{folder.name}"), 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{prefix}{folder.name}-{number}")
    return folder.rename(target)
