"""Checkpoints that are whole or not there: staged by all ranks, hashed, then renamed into place.

A checkpoint is a folder `step-00001200` with the engine's files, `progress.json` (where the run stood) and
`manifest.json` (size and SHA-256 of every file). Loading takes the newest one whose files match its manifest, says
which ones do not, and leaves them where they are. A failed save leaves the earlier checkpoints untouched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomae.config import configclass
from videomae.distributed import World
from videomae.progress import logger

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
_STAGING = ".staging"
_REPLACED = ".replaced"


@configclass
class CheckpointConfig:
    """When to save and how much to keep."""

    every: str = "1 epoch"
    keep: int = 2  # the newest ones

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    progress: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.progress["step"])


class CheckpointStore:
    """The checkpoints of one run; `save` and `newest` are called by all ranks."""

    def __init__(self, folder: Path, *, world: World, keep: int) -> None:
        self._folder = folder
        self._world = world
        self._keep = keep

    def save(self, progress: dict[str, Any], write: Callable[[Path], None]) -> Path:
        """Commit a checkpoint; `write(staging folder)` runs on every rank, `progress` must have `step`.

        Raises:
            OSError: a rank could not write; nothing new is left, and every rank raises.
        """
        target = self._folder / f"step-{progress['step']:08d}"
        staging = self._folder / _STAGING
        self._world.on_first(lambda: _empty(staging))
        self._on_every_rank(lambda: write(staging), staging)
        self._on_every_rank(lambda: self._commit(staging, target, progress) if self._world.first else None, staging)
        return target

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, the same on every rank, or None."""
        return self._world.share(self._find_newest() if self._world.first else None)

    def _find_newest(self) -> Checkpoint | None:
        for folder in sorted(self._folder.glob("step-*"), reverse=True):
            fault = find_fault(folder)
            if fault is None:
                return Checkpoint(folder, json.loads((folder / PROGRESS).read_text()))
            logger.warning("checkpoint %s is left out: %s", folder, fault)
        return None

    def _on_every_rank(self, action: Callable[[], None], staging: Path) -> None:
        """Run `action`; an OSError on any rank becomes one on all, after the staging folder is removed."""
        fault = None
        try:
            action()
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            fault = f"rank {self._world.rank}: {error}"
        faults = [entry for entry in self._world.gather(fault) if entry]
        if faults:
            if self._world.first:
                shutil.rmtree(staging, ignore_errors=True)
            raise OSError(
                f"checkpoint not saved, earlier ones are kept: {'; '.join(faults)}; "
                f"free space below {self._folder} or move the run, then start the same command again"
            )

    def _commit(self, staging: Path, target: Path, progress: dict[str, Any]) -> None:
        _write_synced(staging / PROGRESS, json.dumps(progress, indent=1))
        files = {
            str(path.relative_to(staging)): _describe(path) for path in sorted(staging.rglob("*")) if path.is_file()
        }
        _write_synced(staging / MANIFEST, json.dumps({"files": files}, indent=1))
        replaced = self._folder / _REPLACED
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        staging.rename(target)
        _sync_folder(self._folder)
        shutil.rmtree(replaced, ignore_errors=True)
        # Later steps than this one are damaged or of an abandoned course: they must not push this one out.
        for old in sorted(path for path in self._folder.glob("step-*") if path.name <= target.name)[: -self._keep]:
            shutil.rmtree(old)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def find_fault(folder: Path) -> str | None:
    """What is wrong with the checkpoint at `folder`, or None if every file matches the manifest."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"no readable {MANIFEST} ({error})"
    for name, described in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != described["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, its manifest says {described['bytes']}"
        if _digest(path) != described["sha256"]:
            return f"{name} has changed since it was written"
    return None if PROGRESS in files else f"{PROGRESS} is missing"


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
