"""One rank's share of the engine's state, copied to the host so that training can go on while it is written.

Which ranges of which parameters a rank keeps is the engine's business (`Held`); the file that comes of it is described
in `videomae.engine.state.fragments`.
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

from videomae.engine.state.fragments import FORMAT, MASTER, file_of


@dataclass(frozen=True)
class ParamShard:
    """A flat range of one parameter that this rank keeps."""

    name: str
    shape: tuple[int, ...]  # of the whole parameter
    start: int  # of the range, in the flattened parameter
    values: dict[str, Tensor]  # key -> 1-D float32 view of what trains
    steps: Tensor | None = None  # scalar; None where nothing is trained

    @property
    def stop(self) -> int:
        return self.start + self.values[MASTER].numel()

    def cut(self, start: int, stop: int) -> ParamShard:
        """The part of the range from `start` to `stop`, both counted in the flattened parameter."""
        values = {key: value[start - self.start : stop - self.start] for key, value in self.values.items()}
        return ParamShard(self.name, self.shape, start, values, self.steps)


def share(held: Sequence[ParamShard], *, rank: int, size: int) -> list[ParamShard]:
    """This rank's part of what all ranks hold alike: a contiguous run of about 1 / `size` of all values."""
    total = sum(part.stop - part.start for part in held)
    first, last = total * rank // size, total * (rank + 1) // size
    parts, done = [], 0
    for part in held:
        start, stop = max(part.start, part.start + first - done), min(part.stop, part.start + last - done)
        if start < stop:
            parts.append(part.cut(start, stop))
        done += part.stop - part.start
    return parts


@dataclass(frozen=True)
class Snapshot:
    """Host copies of one rank's state; `write` needs no other rank and may run in another thread."""

    rank: int
    tensors: dict[str, Tensor]
    index: dict[str, Any]

    @property
    def bytes(self) -> int:
        """About how large the file will be."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def write(self, folder: Path) -> None:
        """Write this rank's file into `folder`.

        Raises:
            OSError: the file cannot be written.
        """
        path = folder / file_of(self.rank)
        try:
            safetensors.torch.save_file(self.tensors, path, metadata={"index": json.dumps(self.index)})
        except SafetensorError as error:  # such as a full disk
            raise OSError(f"{path} cannot be written: {error}") from error


@dataclass(frozen=True)
class Extras:
    """What is neither a parameter nor its moments."""

    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # this rank's
    scaler: Tensor | None = None  # float64: loss scale, steps since it changed


def snapshot_to_host(
    held: Sequence[ParamShard], extras: Extras, *, rank: int, size: int, into: Snapshot | None = None
) -> Snapshot:
    """Copy `held` and `extras` to the host: asynchronously into pinned memory on CUDA, then one wait.

    The memory of `into` is used again where it fits; that snapshot is then no more.
    """
    live = {f"{key}|{part.name}|{part.start}": value for part in held for key, value in part.values.items()}
    live |= {f"buffer|{name}": value for name, value in extras.buffers.items()}
    trained = [part for part in held if part.steps is not None]
    if trained:
        live["steps"] = torch.stack([part.steps for part in trained if part.steps is not None])
    if extras.scaler is not None:
        live["scaler"] = extras.scaler
    index = {
        "format": FORMAT,
        "rank": rank,
        "size": size,
        "shapes": {part.name: list(part.shape) for part in held},
        "steps": [part.name for part in trained],
    }
    return Snapshot(rank, _on_host(live, {} if into is None else into.tensors), index)


def _on_host(live: Mapping[str, Tensor], used: Mapping[str, Tensor]) -> dict[str, Tensor]:
    copies, device = {}, None
    for name, value in live.items():
        value, copy = value.detach(), used.get(name)
        if value.device.type == "cuda":
            device = value.device
        if copy is None or copy.shape != value.shape or copy.dtype != value.dtype:
            copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.device.type == "cuda")
        copies[name] = copy.copy_(value, non_blocking=True)
    if device is not None:
        torch.cuda.current_stream(device).synchronize()
    return copies
