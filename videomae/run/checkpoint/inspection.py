"""List the checkpoints at a path, and pick one for export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from videomae.run.checkpoint.loading import CheckpointError
from videomae.run.checkpoint.manifest import MANIFEST, PROGRESS, find_fault
from videomae.run.checkpoint.resume import CHECKPOINTS
from videomae.run.checkpoint.staging import STAGING
from videomae.run.checkpoint.store import ABANDONED, DAMAGED, Checkpoint, step_name, step_names


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """One checkpoint folder; None stands for values that cannot be read."""

    name: str
    folder: str
    step: int | None
    bytes: int
    saved: str | None  # ISO 8601, UTC
    engine: dict[str, Any] | None  # kind, zero_stage, precision, world
    fault: str | None


def list_checkpoints(path: Path, *, hashes: bool = False) -> list[CheckpointInfo]:
    """List the checkpoints at `path`, oldest first, with faults in names and sizes or, with `hashes`, in any byte.

    A run directory or its checkpoints/ also lists damaged and abandoned checkpoints and an unfinished save.

    Raises:
        CheckpointError: there is no checkpoint at `path`.
    """
    found = [_read_info(folder, hashes) for folder in _folders(path)]
    if not found:
        raise CheckpointError(
            f"no checkpoint at {path}; give a run directory, its checkpoints/, or the folder of one checkpoint"
        )
    return found


def pick_checkpoint(path: Path, step: int | None = None) -> Checkpoint:
    """Return the latest valid checkpoint at `path`, or that of `step`; checks every byte.

    Raises:
        CheckpointError: there is none; the message lists what was found.
    """
    skipped = []
    for folder in reversed([folder for folder in _folders(path) if _is_candidate(folder, path)]):
        if step is None or folder.name == step_name(step):
            fault = find_fault(folder)
            if fault is None:
                return Checkpoint(folder, json.loads((folder / PROGRESS).read_text()))
            skipped.append(f"{folder.name}: {fault}")
    of_step = "" if step is None else f" of step {step}"
    found = "; ".join(skipped) or f"the run has saved none there; see: videomae checkpoint ls {path}"
    raise CheckpointError(f"no valid checkpoint{of_step} at {path} ({found})")


def _is_candidate(folder: Path, path: Path) -> bool:
    return folder == path or not folder.name.startswith((DAMAGED, ABANDONED, "."))


def _folders(path: Path) -> Iterator[Path]:
    if (path / MANIFEST).exists() or (path / PROGRESS).exists():
        yield path
        return
    within = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
    yield from sorted([*within.glob(f"{DAMAGED}*"), *within.glob(f"{ABANDONED}*")])
    yield from (within / name for name in step_names(within))
    if (within / STAGING).is_dir():
        yield within / STAGING


def _read_info(folder: Path, hashes: bool) -> CheckpointInfo:
    progress, manifest = _read_object(folder / PROGRESS), _read_object(folder / MANIFEST)
    if folder.name == STAGING:
        fault: str | None = "a save in progress, or interrupted"
    else:
        fault = find_fault(folder, hashes=hashes)
    saved = manifest.get("saved")
    if saved is None and (folder / MANIFEST).exists():
        written = (folder / MANIFEST).stat().st_mtime
        saved = datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")
    return CheckpointInfo(
        name=folder.name,
        folder=str(folder),
        step=progress.get("step"),
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        saved=saved,
        engine=progress.get("engine"),
        fault=fault,
    )


def _read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty if that fails."""
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
