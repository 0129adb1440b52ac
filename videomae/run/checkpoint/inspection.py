"""List the checkpoints at a path, pick one, and export its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from videomae.core.config import read_values
from videomae.core.files import atomic_path
from videomae.engine.state.rank_file import MASTER
from videomae.engine.state.reader import read_full
from videomae.run.checkpoint.loading import CheckpointError
from videomae.run.checkpoint.manifest import MANIFEST, PROGRESS, find_fault
from videomae.run.checkpoint.resume import CHECKPOINTS
from videomae.run.checkpoint.staging import STAGING
from videomae.run.checkpoint.store import ABANDONED, DAMAGED, Checkpoint, step_name, step_names
from videomae.run.directory import RunDirectory


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
    found = "; ".join(skipped) or "see: videomae checkpoint ls"
    raise CheckpointError(f"no valid checkpoint{of_step} at {path} ({found})")


def export_weights(checkpoint: Checkpoint, out: Path, *, weights: str = MASTER) -> int:
    """Write the full float32 `weights` (master or ema) with the buffers to `out`; returns the number of tensors.

    Of a pretraining run, the file's metadata has the config of the encoder, so that later stages can start from it.

    Raises:
        UserError: `out` is no .safetensors file name, or the checkpoint has no such weights.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"got {out} to export to, expected a file name that ends in .safetensors")
    state = read_full(checkpoint.folder, weights)
    info = {"step": str(checkpoint.step), "weights": weights}
    recorded = RunDirectory(checkpoint.folder.absolute().parent.parent)
    if recorded.config.is_file():
        info["run"] = recorded.path.name
        encoder = read_values(recorded.config).get("encoder")
        info |= {"encoder": json.dumps(encoder)} if encoder else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as part:
        safetensors.torch.save_file(state, part, metadata=info)
    return len(state)


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
    return CheckpointInfo(
        name=folder.name,
        folder=str(folder),
        step=progress.get("step"),
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        saved=manifest.get("saved"),
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
