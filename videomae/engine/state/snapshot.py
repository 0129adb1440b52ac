"""Host copies of one rank's engine state, written while training continues.

The engine decides which ranges of which parameters a rank holds (`ParamShard`); `rank_file` describes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from videomae.engine.state.rank_file import BUFFER, FORMAT, MASTER, rank_file_name


@dataclass(frozen=True)
class ParamShard:
    """A flat range of one parameter that this rank holds."""

    name: str
    shape: tuple[int, ...]  # of the whole parameter
    start: int  # of the range, in the flattened parameter
    values: dict[str, Tensor]  # key -> 1-D float32 view of the live tensor
    steps: Tensor | None = None  # scalar step count; None if the parameter is not trained

    @property
    def stop(self) -> int:
        return self.start + self.numel

    @property
    def numel(self) -> int:
        return self.values[MASTER].numel()

    def narrow(self, start: int, stop: int) -> ParamShard:
        """Return the part of the range from `start` to `stop`, both counted in the flattened parameter."""
        values = {key: value[start - self.start : stop - self.start] for key, value in self.values.items()}
        return ParamShard(self.name, self.shape, start, values, self.steps)


def split_replicated(shards: Sequence[ParamShard], *, rank: int, size: int) -> list[ParamShard]:
    """Return the part of replicated `shards` that `rank` writes: contiguous, about 1 / `size` of all values."""
    total = sum(shard.numel for shard in shards)
    first, last = total * rank // size, total * (rank + 1) // size
    parts, done = [], 0
    for shard in shards:
        start, stop = max(shard.start, shard.start + first - done), min(shard.stop, shard.start + last - done)
        if start < stop:
            parts.append(shard.narrow(start, stop))
        done += shard.numel
    return parts


@dataclass(frozen=True)
class Snapshot:
    """Host copies of one rank's state; `write` does not communicate and may run in another thread."""

    rank: int
    tensors: dict[str, Tensor]
    index: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Bytes of the tensors; the file also has a header."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def write(self, folder: Path) -> None:
        """Write this rank's file into `folder`.

        Raises:
            OSError: the file cannot be written.
        """
        path = folder / rank_file_name(self.rank)
        try:
            safetensors.torch.save_file(self.tensors, path, metadata={"index": json.dumps(self.index)})
        except SafetensorError as error:  # such as a full disk
            raise OSError(f"{path} cannot be written: {error}") from error


@dataclass(frozen=True)
class Extras:
    """State besides parameters and moments."""

    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # this rank's
    scaler: Tensor | None = None  # float64: loss scale, steps since it changed


def snapshot_to_host(
    shards: Sequence[ParamShard], extras: Extras, *, rank: int, size: int, into: Snapshot | None = None
) -> Snapshot:
    """Copy `shards` and `extras` to the host; on CUDA asynchronously into pinned memory, with one synchronization.

    Reuses the memory of `into` where shapes match, which invalidates that snapshot.
    """
    live = {f"{key}|{shard.name}|{shard.start}": value for shard in shards for key, value in shard.values.items()}
    live |= {f"{BUFFER}|{name}": value for name, value in extras.buffers.items()}
    steps = {shard.name: shard.steps for shard in shards if shard.steps is not None}
    if steps:
        live["steps"] = torch.stack(list(steps.values()))
    if extras.scaler is not None:
        live["scaler"] = extras.scaler
    index = {
        "format": FORMAT,
        "rank": rank,
        "size": size,
        "shapes": {shard.name: list(shard.shape) for shard in shards},
        "steps": list(steps),
    }
    return Snapshot(rank, _copy_to_host(live, {} if into is None else into.tensors), index)


def _copy_to_host(live: Mapping[str, Tensor], reusable: Mapping[str, Tensor]) -> dict[str, Tensor]:
    copies, device = {}, None
    for name, value in live.items():
        value, copy = value.detach(), reusable.get(name)
        if value.device.type == "cuda":
            device = value.device
        if copy is None or copy.shape != value.shape or copy.dtype != value.dtype:
            copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.device.type == "cuda")
        copies[name] = copy.copy_(value, non_blocking=True)
    if device is not None:
        torch.cuda.current_stream(device).synchronize()
    return copies
