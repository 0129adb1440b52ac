"""Restore engine state on all ranks together, reading each byte once.

Each rank reads its own shards. Replicated values, such as everything at ZeRO stage 0, are split: each rank reads a
contiguous part from one file or two, and the ranks all-gather the parts bucket by bucket. Values are copied, never
computed with.

A failing rank never leaves the others waiting: everything that follows from the index is checked before anything is
changed or communicated, and a rank that cannot read takes part in the remaining collectives before all ranks raise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from videomae.core.distributed import World
from videomae.engine.state.index import FileRead, ReadRequest
from videomae.engine.state.rank_file import EMA, StateError
from videomae.engine.state.reader import StateReader
from videomae.engine.state.snapshot import ParamShard

PART = 1 << 20  # values per rank and bucket at most: larger parts do not fit into CPU caches
BUCKET = 1 << 25  # values per bucket at most, over all ranks: 128 MiB on each


def restore(sharded: Sequence[ParamShard], replicated: Sequence[ParamShard], state: StateReader, world: World) -> None:
    """Fill this rank's own shards, and the replicated ones, which are the same on all ranks; called by all ranks.

    Raises:
        StateError: on every rank. `state` lacks a range, and nothing is changed; or a file cannot be read.
    """
    if world.size == 1:
        sharded, replicated = [*sharded, *replicated], []
    own, shared = world.run_all_or_raise(lambda: (plan_reads(sharded, state), plan_reads(replicated, state)))
    world.run_all_or_raise(lambda: [state.read(item) for item in own])
    read_and_all_gather(shared, state, world)
    counts: dict[int, tuple[Tensor, float]] = {}  # ZeRO counts the steps of a partition, not of a parameter
    for shard in (*sharded, *replicated):
        if shard.steps is not None:
            _, count = counts.get(id(shard.steps), (shard.steps, 0.0))
            counts[id(shard.steps)] = (shard.steps, max(count, state.steps(shard.name)))
    for steps, count in counts.values():
        steps.fill_(count)


def plan_reads(shards: Sequence[ParamShard], state: StateReader) -> list[FileRead]:
    """Return the reads that fill `shards`, in the order of their bytes on disk.

    Raises:
        StateError: some values are not stored.
    """
    if any(EMA in shard.values for shard in shards) and EMA not in state.keys:
        raise StateError(f"{state.folder} holds no EMA of the weights; type optimizer.ema=null to continue without")
    return state.plan(
        [ReadRequest(key, shard.name, shard.start, value) for shard in shards for key, value in shard.values.items()]
    )


def read_and_all_gather(reads: Sequence[FileRead], state: StateReader, world: World, *, bucket: int = BUCKET) -> None:
    """Fill `reads`, the same on every rank, of which each rank reads its part; `bucket` values travel at a time.

    Raises:
        StateError: on every rank, if one could not read its part.
    """
    if not reads:
        return
    plan = _FlatReads(reads)
    parts = list(pairwise(plan.numel * rank // world.size for rank in range(world.size + 1)))
    longest = max(stop - start for start, stop in parts)
    width = max(1, min(longest, PART, bucket // world.size))  # values per rank in a bucket
    own = torch.zeros(width, pin_memory=world.device.type == "cuda")
    gathered = torch.empty(width * world.size, device=world.device)
    error: Exception | None = None
    for begin in range(0, longest, width):
        spans = [(min(start + begin, stop), min(start + begin + width, stop)) for start, stop in parts]
        if error is None:
            error = _read_span(plan, spans[world.rank], own, state)
        world.all_gather_into(own.to(world.device), into=gathered)
        for rank, span in enumerate(spans):
            for position, item in plan.span(*span):
                source = rank * width + position
                item.values.copy_(gathered[source : source + item.numel])
    world.run_all_or_raise(lambda: _raise_if(error))


class _FlatReads:
    """Reads laid end to end, so that every value has one position."""

    def __init__(self, reads: Sequence[FileRead]) -> None:
        self._reads = reads
        self._starts = [0, *accumulate(item.numel for item in reads)]

    @property
    def numel(self) -> int:
        return self._starts[-1]

    def span(self, start: int, stop: int) -> Iterator[tuple[int, FileRead]]:
        """Yield (position counted from `start`, read or part of one) for positions `start` to `stop`."""
        number, done = bisect_right(self._starts, start) - 1, start
        while done < stop:
            first = self._starts[number]
            end = min(stop, self._starts[number + 1])
            yield done - start, self._reads[number].narrow(done - first, end - first)
            number, done = number + 1, end


def _read_span(plan: _FlatReads, span: tuple[int, int], out: Tensor, state: StateReader) -> Exception | None:
    try:
        for position, item in plan.span(*span):
            state.read(item, out=out[position : position + item.numel])
    except Exception as error:  # any error: the other ranks are waiting in a collective
        return error
    return None


def _raise_if(error: Exception | None) -> None:
    if error is not None:
        raise error
