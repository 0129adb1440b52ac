"""Export and convert checkpoints: full weights as safetensors, another number of files, one file for plain PyTorch.

None of it needs DeepSpeed, a GPU or the model's code; all of it needs host memory for the state.
"""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from videomae.core.config import read_values
from videomae.core.files import atomic_folder, atomic_path
from videomae.engine.state.index import ReadRequest
from videomae.engine.state.rank_file import EMA, MASTER
from videomae.engine.state.reader import StateReader, read_full
from videomae.engine.state.snapshot import Extras, ParamShard, snapshot_to_host, split_replicated
from videomae.run.checkpoint.loading import CheckpointError
from videomae.run.checkpoint.manifest import PROGRESS, hash_files, write_manifest
from videomae.run.checkpoint.store import Checkpoint
from videomae.run.directory import RunDirectory


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
    tensors = {name: value.contiguous() for name, value in state.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as part:
        safetensors.torch.save_file(tensors, part, metadata=info)
    return len(state)


def convert_to_torch(checkpoint: Checkpoint, out: Path) -> int:
    """Write one file that `torch.load(weights_only=True)` reads; returns the number of parameters.

    It holds `model` (float32 weights and buffers by name), `exp_avg`, `exp_avg_sq` and, if kept, `ema` by name,
    `steps` by name, and `progress`.

    Raises:
        UserError: `out` is no .pt or .pth file name.
    """
    if out.suffix not in (".pt", ".pth"):
        raise CheckpointError(f"got {out} to write, expected a file name that ends in .pt")
    with StateReader(checkpoint.folder) as state:
        content: dict[str, Any] = {"model": read_full(checkpoint.folder), "progress": checkpoint.progress}
        for key in sorted(state.keys - {MASTER}):
            content[key] = read_full(checkpoint.folder, key)
        content["steps"] = {name: state.steps(name) for name in state.shapes}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as part:
        torch.save(content, part)
    return len(content["steps"])


def convert_to_ranks(checkpoint: Checkpoint, out: Path, *, ranks: int) -> None:
    """Write the same state as a checkpoint of `ranks` files; a run resumes from it with checkpoint.resume=OUT.

    Raises:
        UserError: `ranks` is less than 1, or `out` exists.
    """
    if ranks < 1:
        raise CheckpointError(f"got {ranks} ranks, expected 1 or more")
    if out.exists():
        raise CheckpointError(f"{out} exists already; name another folder, or remove it")
    with atomic_folder(out) as part, StateReader(checkpoint.folder) as state:
        shards = _read_shards(state)
        for rank in range(ranks):
            extras = Extras(state.buffers(rank=rank, size=ranks), state.scaler())
            own = split_replicated(shards, rank=rank, size=ranks)
            snapshot_to_host(own, extras, rank=rank, size=ranks).write(part)
        shutil.copyfile(checkpoint.folder / PROGRESS, part / PROGRESS)
        write_manifest(part, hash_files(part), step=checkpoint.step, converted=str(checkpoint.folder))


def _read_shards(state: StateReader) -> list[ParamShard]:
    """Read the full state as the shards of a single rank."""
    values = {
        name: {key: torch.empty(prod(shape)) for key in sorted(state.keys) if state.has(key, name)}
        for name, shape in state.shapes.items()
    }
    state.fill([ReadRequest(key, name, 0, out) for name, stored in values.items() for key, out in stored.items()])
    shards = []
    for name, shape in state.shapes.items():
        trained = any(key not in (MASTER, EMA) for key in values[name])
        steps = torch.tensor(state.steps(name)) if trained else None
        shards.append(ParamShard(name, shape, 0, values[name], steps))
    return shards
