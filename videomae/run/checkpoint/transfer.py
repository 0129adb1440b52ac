"""Checkpoints taken elsewhere: whole weights as safetensors, other numbers of files, one file for plain PyTorch.

Nothing here needs DeepSpeed, a GPU or the code of a model; all of it needs host memory for the state.
"""

from __future__ import annotations

import shutil
from math import prod
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from videomae.core.files import atomic_folder, atomic_path, write_atomic
from videomae.engine.state.index import ReadRequest
from videomae.engine.state.rank_file import EMA, MASTER
from videomae.engine.state.reader import StateReader, read_full
from videomae.engine.state.snapshot import Extras, ParamShard, snapshot_to_host, split_replicated
from videomae.run.checkpoint import manifest
from videomae.run.checkpoint.loading import CheckpointError
from videomae.run.checkpoint.manifest import MANIFEST, PROGRESS
from videomae.run.checkpoint.store import Checkpoint


def export(checkpoint: Checkpoint, out: Path, *, weights: str = MASTER) -> int:
    """Write the whole float32 `weights` (master or ema) with the buffers to `out`; gives the number of tensors.

    Raises:
        UserError: `out` is no .safetensors file name, or the checkpoint has no such weights.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"got {out} to export to, wanted a file name that ends in .safetensors")
    state = read_full(checkpoint.folder, weights)
    about = {"step": str(checkpoint.step), "weights": weights, "checkpoint": str(checkpoint.folder)}
    tensors = {name: value.contiguous() for name, value in state.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as part:
        safetensors.torch.save_file(tensors, part, metadata=about)
    return len(state)


def to_torch(checkpoint: Checkpoint, out: Path) -> int:
    """Write everything to one file that `torch.load(weights_only=True)` reads; gives the number of parameters.

    It holds `model` (float32 weights and buffers by name), `exp_avg`, `exp_avg_sq` and, if kept, `ema` by name,
    `steps` by name, and `progress`.
    """
    if out.suffix not in (".pt", ".pth"):
        raise CheckpointError(f"got {out} to write, wanted a file name that ends in .pt")
    with StateReader(checkpoint.folder) as state:
        content: dict[str, Any] = {"model": read_full(checkpoint.folder), "progress": checkpoint.progress}
        for key in sorted(state.keys - {MASTER}):
            content[key] = read_full(checkpoint.folder, key)
        content["steps"] = {name: state.steps(name) for name in state.shapes}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as part:
        torch.save(content, part)
    return len(content["steps"])


def to_ranks(checkpoint: Checkpoint, out: Path, *, ranks: int) -> None:
    """Write the same state as a checkpoint of `ranks` files; a run goes on from it with checkpoint.resume=OUT.

    Raises:
        UserError: `ranks` is less than 1, or something is at `out`.
    """
    if ranks < 1:
        raise CheckpointError(f"got {ranks} ranks, wanted 1 or more")
    if out.exists():
        raise CheckpointError(f"{out} is there already; name another folder, or remove it")
    with atomic_folder(out) as staged:
        with StateReader(checkpoint.folder) as state:
            held = _whole(state)
            for rank in range(ranks):
                extras = Extras(state.buffers(rank=rank, size=ranks), state.scaler())
                snapshot_to_host(split_replicated(held, rank=rank, size=ranks), extras, rank=rank, size=ranks).write(
                    staged
                )
        shutil.copyfile(checkpoint.folder / PROGRESS, staged / PROGRESS)
        text = manifest.to_text(manifest.describe(staged), step=checkpoint.step, converted=str(checkpoint.folder))
        write_atomic(staged / MANIFEST, text, sync=True)


def _whole(state: StateReader) -> list[ParamShard]:
    """The state as one rank would hold it that keeps everything."""
    values = {
        name: {key: torch.empty(prod(shape)) for key in sorted(state.keys) if state.has(key, name)}
        for name, shape in state.shapes.items()
    }
    state.fill([ReadRequest(key, name, 0, room) for name, kept in values.items() for key, room in kept.items()])
    held = []
    for name, shape in state.shapes.items():
        trained = any(key not in (MASTER, EMA) for key in values[name])
        steps = torch.tensor(state.steps(name)) if trained else None
        held.append(ParamShard(name, shape, 0, values[name], steps))
    return held
