"""Snapshot, restore and gather engine state, wherever an engine keeps it.

Engines differ in where float32 weights and moments live: whole on every rank, or partitioned across ranks. A
`ShardedState` lists this rank's ranges of each parameter; everything else is the same for all engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from videomae.core.distributed import World
from videomae.engine.state.rank_file import EMA, MASTER
from videomae.engine.state.reader import StateReader
from videomae.engine.state.restore import restore
from videomae.engine.state.snapshot import Extras, ParamShard, Snapshot, snapshot_to_host, split_replicated


class ShardedState(Protocol):
    """Where a module's float32 weights, moments and EMA are."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, in module order."""
        ...

    def sharded(self) -> Sequence[ParamShard]:
        """The ranges that only this rank holds."""
        ...

    def replicated(self) -> Sequence[ParamShard]:
        """The ranges that every rank holds."""
        ...

    def sync_model_weights(self) -> None:
        """Update what derives from restored values, such as half-precision weights; called by all ranks."""
        ...

    def scaler(self) -> Tensor | None:
        """The fp16 loss scale and the steps since it changed, float64, or None."""
        ...

    def load_scaler(self, scaler: Tensor | None) -> None:
        """Restore what `scaler` returned."""
        ...


class EngineState:
    """The state of one module in one engine."""

    def __init__(self, module: nn.Module, sharded: ShardedState, world: World) -> None:
        self._module, self._sharded, self._world = module, sharded, world

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        """Copy the ranges that this rank writes to the host, into the memory of `into` where it fits."""
        rank, size = self._world.rank, self._world.size
        shards = [*self._sharded.sharded(), *split_replicated(self._sharded.replicated(), rank=rank, size=size)]
        extras = Extras(persistent_buffers(self._module), self._sharded.scaler())
        return snapshot_to_host(shards, extras, rank=rank, size=size, into=into)

    def load(self, folder: Path) -> None:
        """Restore a state that any engine wrote; called by all ranks.

        Raises:
            StateError: the state is missing, damaged, or does not fit; on every rank, if on one.
        """
        world, buffers = self._world, persistent_buffers(self._module)
        with StateReader.open_on_all_ranks(folder, world) as state:
            world.run_all_or_raise(lambda: state.check_fits(self._sharded.shapes(), buffers.keys()))
            restore(self._sharded.sharded(), self._sharded.replicated(), state, world)
            if buffers:
                for name, value in self._stored_buffers(state).items():
                    buffers[name].copy_(value)
            self._sharded.load_scaler(state.scaler())
        self._sharded.sync_model_weights()

    def full(self, *, ema: bool) -> dict[str, Tensor]:
        """Return the whole module, or its EMA weights, in float32 on every host; called by all ranks."""
        key = EMA if ema else MASTER
        own: dict[str, list[ParamShard]] = {}
        for shard in self._sharded.sharded():
            own.setdefault(shard.name, []).append(shard)
        replicated = {shard.name: shard.values for shard in self._sharded.replicated()}
        state = {}
        for name, shape in self._sharded.shapes().items():
            if name in replicated:
                flat = replicated[name].get(key, replicated[name][MASTER])
            else:
                flat = self._gather(own.get(name, []), key, prod(shape))
            state[name] = flat.detach().reshape(shape).to("cpu", torch.float32, copy=True)
        for name, buffer in persistent_buffers(self._module).items():
            state[name] = buffer.to("cpu", torch.float32, copy=True)
        return state

    def _stored_buffers(self, state: StateReader) -> dict[str, Tensor]:
        rank, size = self._world.rank, self._world.size
        run = self._world.run_all_or_raise if size == state.size else self._world.run_on_main
        return run(lambda: state.buffers(rank=rank, size=size))

    def _gather(self, shards: Sequence[ParamShard], key: str, numel: int) -> Tensor:
        """Sum the shards of all ranks as integers, so that adding the zeros of other ranks preserves every bit."""
        bits = torch.zeros(numel, dtype=torch.int32, device=self._world.device)
        for shard in shards:
            bits[shard.start : shard.stop] = shard.values[key].detach().view(torch.int32)
        self._world.all_reduce(bits)
        return bits.view(torch.float32)


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that belong to the module's state dict, by name."""
    persistent = module.state_dict(keep_vars=True).keys()
    return {name: buffer.detach() for name, buffer in module.named_buffers() if name in persistent}
