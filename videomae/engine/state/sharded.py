"""What an engine keeps, saved and restored without regard to where it is kept.

Engines differ in where weights and moments live: whole on every rank, or cut into partitions. A `Holder` tells this
rank's ranges of each parameter; snapshots, loading and gathering are then the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from videomae.core.distributed import World
from videomae.engine.mixed_precision import MixedPrecision
from videomae.engine.optimizer import AdamW
from videomae.engine.state.fragments import EMA, MASTER, State
from videomae.engine.state.restoring import restore
from videomae.engine.state.snapshot import Extras, ParamShard, Snapshot, share, snapshot_to_host


class ShardedState(Protocol):
    """Where the float32 weights, moments and averages of a module are."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape, in the module's order."""
        ...

    def sharded(self) -> Sequence[ParamShard]:
        """The ranges that this rank alone keeps."""
        ...

    def replicated(self) -> Sequence[ParamShard]:
        """The ranges that every rank keeps alike."""
        ...

    def sync_model_weights(self) -> None:
        """Derive what follows from restored values, such as weights in half precision; called by all ranks."""
        ...

    def scaler(self) -> Tensor | None:
        """The fp16 loss scale and the steps since it changed, float64, or None."""
        ...

    def load_scaler(self, scaler: Tensor | None) -> None:
        """Restore what `scaler` gave."""
        ...


class EngineState:
    """The state of one module under one engine."""

    def __init__(self, module: nn.Module, holder: ShardedState, world: World) -> None:
        self._module, self._holder, self._world = module, holder, world

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        """This rank's share on the host, in the memory of `into` where it fits; no rank waits for another."""
        rank, size = self._world.rank, self._world.size
        held = [*self._holder.sharded(), *share(self._holder.replicated(), rank=rank, size=size)]
        extras = Extras(persistent_buffers(self._module), self._holder.scaler())
        return snapshot_to_host(held, extras, rank=rank, size=size, into=into)

    def load(self, folder: Path) -> None:
        """Restore a state that any engine wrote; called by all ranks.

        Raises:
            StateError: the state is missing, damaged, or does not fit; on every rank, if on one.
        """
        world, buffers = self._world, persistent_buffers(self._module)
        with State.shared(folder, world) as state:
            world.run_all_or_raise(lambda: state.fit(self._holder.shapes(), buffers.keys()))
            restore(self._holder.sharded(), self._holder.replicated(), state, world)
            if buffers:
                for name, value in self._stored_buffers(state).items():
                    buffers[name].copy_(value)
            self._holder.load_scaler(state.scaler())
        self._holder.sync_model_weights()

    def _stored_buffers(self, state: State) -> dict[str, Tensor]:
        rank, size = self._world.rank, self._world.size
        read = self._world.run_all_or_raise if size == state.size else self._world.run_on_main
        return read(lambda: state.buffers(rank=rank, size=size))

    def full(self, *, ema: bool) -> dict[str, Tensor]:
        """The whole module, float32 on the host of every rank, or the average of its weights; called by all ranks."""
        key = EMA if ema else MASTER
        own: dict[str, list[ParamShard]] = {}
        for part in self._holder.sharded():
            own.setdefault(part.name, []).append(part)
        common = {part.name: part for part in self._holder.replicated()}
        state = {}
        for name, shape in self._holder.shapes().items():
            if name in common:
                flat = common[name].values.get(key, common[name].values[MASTER])
            else:
                flat = self._gathered(own.get(name, []), key, prod(shape))
            state[name] = flat.detach().reshape(shape).to("cpu", torch.float32, copy=True)
        for name, buffer in persistent_buffers(self._module).items():
            state[name] = buffer.to("cpu", torch.float32, copy=True)
        return state

    def _gathered(self, parts: Sequence[ParamShard], key: str, numel: int) -> Tensor:
        """A parameter of which each rank has a part. As integers, so that zeros of the other ranks change no bit."""
        bits = torch.zeros(numel, dtype=torch.int32, device=self._world.device)
        for part in parts:
            bits[part.start : part.stop] = part.values[key].detach().view(torch.int32)
        self._world.all_reduce(bits)
        return bits.view(torch.float32)


class LocalShardedState:
    """Float32 weights that AdamW holds as they are, whole on every rank."""

    def __init__(self, module: nn.Module, optimizer: AdamW, precision: MixedPrecision) -> None:
        self._module, self._optimizer, self._precision = module, optimizer, precision

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in self._module.named_parameters()}

    def sharded(self) -> Sequence[ParamShard]:
        return []

    def replicated(self) -> Sequence[ParamShard]:
        parts = []
        for name, parameter in self._module.named_parameters():
            state = self._optimizer.state.get(parameter, {})
            values = {key: state[key].view(-1) for key in self._optimizer.state_keys if key in state}
            values[MASTER] = parameter.detach().view(-1)
            parts.append(ParamShard(name, tuple(parameter.shape), 0, values, state.get("step")))
        return parts

    def sync_model_weights(self) -> None:
        pass  # the weights are what was restored

    def scaler(self) -> Tensor | None:
        return self._precision.state()

    def load_scaler(self, scaler: Tensor | None) -> None:
        self._precision.load(scaler)


def persistent_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers that belong to the module's state, by name."""
    kept = module.state_dict(keep_vars=True).keys()
    return {name: buffer.detach() for name, buffer in module.named_buffers() if name in kept}
