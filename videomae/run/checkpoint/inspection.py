"""What stands in a folder of checkpoints: found by people's paths, listed, and picked for export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from videomae.run.checkpoint.loading import CheckpointError
from videomae.run.checkpoint.manifest import MANIFEST, PROGRESS, find_fault, find_quick_fault
from videomae.run.checkpoint.resume import CHECKPOINTS
from videomae.run.checkpoint.staging import STAGING
from videomae.run.checkpoint.store import ABANDONED, DAMAGED, Checkpoint, step_name, step_names


@dataclass(frozen=True, kw_only=True)
class Row:
    """One folder; what is None could not be read."""

    name: str
    folder: str
    step: int | None
    bytes: int
    saved: str | None  # ISO, UTC
    engine: dict[str, Any] | None  # kind, zero_stage, precision, world
    fault: str | None


def rows(path: Path, *, thorough: bool = False) -> list[Row]:
    """The checkpoints that `path` means, oldest first; `thorough` hashes every byte, else sizes are compared.

    Of a run's directory or its checkpoints/, what was set aside, and a save that was cut off, are listed too.

    Raises:
        CheckpointError: there is nothing of the kind at `path`.
    """
    found = [_row(folder, thorough) for folder in _folders(path)]
    if not found:
        raise CheckpointError(
            f"no checkpoint at {path}; give a run's directory, its checkpoints/, or the folder of one checkpoint"
        )
    return found


def pick(path: Path, step: int | None = None) -> Checkpoint:
    """The newest whole checkpoint that `path` means, or that of `step`; every byte is checked.

    Raises:
        CheckpointError: there is none; the message says what was looked at.
    """
    passed_over = []
    for folder in reversed([folder for folder in _folders(path) if _is_candidate(folder, path)]):
        if step is None or folder.name == step_name(step):
            fault = find_fault(folder)
            if fault is None:
                return Checkpoint(folder, json.loads((folder / PROGRESS).read_text()))
            passed_over.append(f"{folder.name}: {fault}")
    wanted = "" if step is None else f" of step {step}"
    looked = "; ".join(passed_over) or "see: videomae checkpoint ls"
    raise CheckpointError(f"no whole checkpoint{wanted} at {path} ({looked})")


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


def _row(folder: Path, thorough: bool) -> Row:
    progress, manifest = _read(folder / PROGRESS), _read(folder / MANIFEST)
    if folder.name == STAGING:
        fault: str | None = "a save that is under way, or was cut off"
    else:
        fault = find_fault(folder) if thorough else find_quick_fault(folder)
    saved = manifest.get("saved")
    if saved is None and (folder / MANIFEST).exists():
        written = (folder / MANIFEST).stat().st_mtime
        saved = datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")
    return Row(
        name=folder.name,
        folder=str(folder),
        step=progress.get("step"),
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        saved=saved,
        engine=progress.get("engine"),
        fault=fault,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
