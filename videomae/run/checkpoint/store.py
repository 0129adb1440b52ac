"""The checkpoints of one run on disk. Each is complete or absent: all ranks stage it, and rank 0 renames it into place.

step-00001200/            a checkpoint: the engine's files, progress.json, manifest.json
latest                    the name of the newest, for people and scripts; loading lists the folders instead
damaged-step-00001100/    quarantined by a load, which logged why; never read or removed
abandoned-step-00001300/  later than a step to which the run was rolled back; never read or removed
.staging/                 a save in progress (staging.py)
.replaced/, .removed-*/   old ones being removed; the next start cleans up after a kill
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from videomae.core.distributed import World
from videomae.core.files import sync_path, write_atomic
from videomae.core.progress import logger
from videomae.run.checkpoint.manifest import PROGRESS, FileRecord, write_manifest
from videomae.run.checkpoint.staging import STAGING, SaveError, Staging

LATEST = "latest"
DAMAGED = "damaged-"
ABANDONED = "abandoned-"
_REPLACED = ".replaced"
_REMOVED = ".removed-"
_STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    folder: Path
    progress: dict[str, Any]

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return int(self.progress["step"])

    @property
    def batches(self) -> int:
        """Consumed batches of data: one per step, and the skipped ones."""
        return int(self.progress.get("batches", self.step))


class CheckpointStore:
    """The checkpoints below one folder; all ranks call every public method."""

    def __init__(
        self, folder: Path, *, world: World, keep: int, keep_every: int | None = None, background_removal: bool = False
    ) -> None:
        self.folder = folder
        self.world = world
        self._keep, self._keep_every = keep, keep_every
        self._background_removal = background_removal
        self._removal: threading.Thread | None = None

    def stage(self, progress: Mapping[str, Any]) -> Staging:
        """Return the staging folder of the next checkpoint, not yet created."""
        return Staging(self.folder / STAGING, self.world, progress)

    def commit(self, staging: Staging, files: Mapping[str, FileRecord]) -> Path:
        """Make the staged `files` the checkpoint of its step, and remove old checkpoints.

        Raises:
            SaveError: rank 0 could not commit it; every rank raises, and nothing new is left.
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

    def abandon_after(self, step: int) -> None:
        """Rename the checkpoints later than `step`, to which the run was rolled back."""

        def rename() -> None:
            for name in reversed(step_names(self.folder)):
                if step_of(name) > step:
                    moved = quarantine(self.folder / name, prefix=ABANDONED)
                    logger.warning("the run goes back to step %d; %s is now %s", step, name, moved.name)

        self.world.main_only(rename)

    def wait_for_removal(self) -> None:
        """Wait for the background removal of old checkpoints."""
        if self._removal is not None:
            self._removal.join()

    def recover(self) -> None:
        """Clean up after a kill during a save; called before any search, by the run's owner: nobody else saves."""
        self.world.main_only(self._recover)

    def _commit(self, staging: Staging, target: Path, files: Mapping[str, FileRecord]) -> None:
        staging.check_owned()
        saved = datetime.now(UTC).isoformat(timespec="seconds")
        write_manifest(staging.folder, files, step=staging.progress["step"], saved=saved)
        staging.remove_token()
        sync_path(staging.folder)
        replaced = self.folder / _REPLACED
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        staging.folder.rename(target)
        sync_path(self.folder)
        self._remove_old(target)

    def _remove_old(self, target: Path) -> None:
        """Update `latest` and remove old checkpoints; an error here does not undo the commit."""
        try:
            write_atomic(self.folder / LATEST, f"{target.name}\n")
            shutil.rmtree(self.folder / _REPLACED, ignore_errors=True)
            steps, newest = map(step_of, step_names(self.folder)), step_of(target.name)
            for step in steps_to_remove(steps, newest=newest, keep=self._keep, keep_every=self._keep_every):
                name = step_name(step)
                (self.folder / name).rename(self.folder / f"{_REMOVED}{name}")
        except OSError as error:
            logger.warning("%s is saved, but old checkpoints could not be removed: %s", target, error)
        self.wait_for_removal()
        if self._background_removal:
            self._removal = threading.Thread(target=self._delete_removed, name="checkpoint-removal", daemon=True)
            self._removal.start()
        else:
            self._delete_removed()

    def _delete_removed(self) -> None:
        for folder in self.folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _recover(self) -> None:
        self._delete_removed()
        shutil.rmtree(self.folder / STAGING, ignore_errors=True)  # it may be as large as a checkpoint
        for part in self.folder.glob(".*.part"):  # of `latest`
            part.unlink()
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


def steps_to_remove(steps: Iterable[int], *, newest: int, keep: int, keep_every: int | None) -> list[int]:
    """Return the steps to remove after saving `newest`: all but the last `keep` and one per `keep_every` steps.

    The first checkpoint at or after each multiple of `keep_every` is permanent. Steps later than `newest` belong to a
    trajectory that was rolled back; they are neither counted nor removed.
    """
    past = sorted(step for step in steps if step <= newest)
    permanent: dict[int, int] = {}
    if keep_every is not None:
        for step in past:
            permanent.setdefault(step // keep_every, step)
        permanent.pop(0, None)
    return [step for step in past[:-keep] if step not in permanent.values()]


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def step_names(folder: Path) -> list[str]:
    """Return the names of the checkpoints in `folder`, oldest first."""
    found = [path.name for path in folder.glob("step-*") if path.is_dir() and _STEP.fullmatch(path.name)]
    return sorted(found, key=step_of)


def quarantine(folder: Path, *, prefix: str = DAMAGED) -> Path:
    """Rename a checkpoint so that it is not used again; returns its new path."""
    target, number = folder.with_name(f"{prefix}{folder.name}"), 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{prefix}{folder.name}-{number}")
    return folder.rename(target)
