"""Reading an engine's state back on all ranks, each byte once for all of them.

What a rank alone keeps, it reads. What all keep alike, such as every value at ZeRO stage 0, is dealt out: each rank
reads a contiguous part, which is one file or two, and the ranks hand one another what they have read, a bucket at a
time. Values travel as they are, without arithmetic.

Ranks never wait for one that has failed: what can be known from the index is checked before anything is changed or
exchanged, and who cannot read goes on exchanging until all have heard of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from videomae.core.distributed import World
from videomae.engine.state.fragments import EMA, Chunk, State, StateError, Target
from videomae.engine.state.snapshot import ParamShard

PART = 1 << 20  # values at most that a rank gives at a time: more would not fit into the caches of a CPU
BUCKET = 1 << 25  # values at most that travel at a time, of all ranks together: 128 MiB on each


def restore(sharded: Sequence[ParamShard], replicated: Sequence[ParamShard], state: State, world: World) -> None:
    """Read what this rank alone keeps and what all keep alike; called by all ranks, with the same `common`.

    Raises:
        StateError: on every rank. `state` lacks a range, and nothing is changed; or a file cannot be read.
    """
    if world.size == 1:
        sharded, replicated = [*sharded, *replicated], []
    ours, alike = world.run_all_or_raise(lambda: (_locate(sharded, state), _locate(replicated, state)))
    world.run_all_or_raise(lambda: [state.load(chunk) for chunk in ours])
    exchange(alike, state, world)
    counts: dict[int, tuple[Tensor, float]] = {}  # ZeRO counts the steps of a partition, not of a parameter
    for part in (*sharded, *replicated):
        if part.steps is not None:
            _, before = counts.get(id(part.steps), (part.steps, 0.0))
            counts[id(part.steps)] = (part.steps, max(before, state.steps(part.name)))
    for tensor, count in counts.values():
        tensor.fill_(count)


def exchange(chunks: Sequence[Chunk], state: State, world: World, *, bucket: int = BUCKET) -> None:
    """Fill `chunks`, the same on every rank, of which each rank reads its share; `bucket` values travel at a time.

    Raises:
        StateError: on every rank; one could not read its share.
    """
    if not chunks:
        return
    row = _Row(chunks)
    shares = list(pairwise(row.total * rank // world.size for rank in range(world.size + 1)))
    longest = max(stop - start for start, stop in shares)
    width = max(1, min(longest, PART, bucket // world.size))  # values of one rank in a bucket
    read = torch.zeros(width, pin_memory=world.device.type == "cuda")
    whole = torch.empty(width * world.size, device=world.device)
    fault: Exception | None = None
    for begin in range(0, longest, width):
        spans = [(min(start + begin, stop), min(start + begin + width, stop)) for start, stop in shares]
        if fault is None:
            fault = _read(row, spans[world.rank], read, state)
        world.all_gather_into(read.to(world.device), into=whole)
        for rank, span in enumerate(spans):
            for place, chunk in row.between(*span):
                at = rank * width + place
                chunk.values.copy_(whole[at : at + chunk.values.numel()])
    world.run_all_or_raise(lambda: _raise(fault))


class _Row:
    """Chunks one after another, so that each value has a place."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = chunks
        self._starts = [0, *accumulate(chunk.values.numel() for chunk in chunks)]

    @property
    def total(self) -> int:
        """How many values there are."""
        return self._starts[-1]

    def between(self, start: int, stop: int) -> Iterator[tuple[int, Chunk]]:
        """What stands at places `start` to `stop`: (its place, counted from `start`; a chunk or a part of one)."""
        number, reached = bisect_right(self._starts, start) - 1, start
        while reached < stop:
            first = self._starts[number]
            end = min(stop, self._starts[number + 1])
            chunk = self._chunks[number]
            yield (
                reached - start,
                chunk if end - reached == chunk.values.numel() else chunk.cut(reached - first, end - first),
            )
            number, reached = number + 1, end


def _read(row: _Row, span: tuple[int, int], into: Tensor, state: State) -> Exception | None:
    try:
        for place, chunk in row.between(*span):
            state.load(chunk, into=into[place : place + chunk.values.numel()])
    except Exception as error:  # whatever it is, the others must not wait for ever
        return error
    return None


def _raise(fault: Exception | None) -> None:
    if fault is not None:
        raise fault


def _locate(held: Sequence[ParamShard], state: State) -> list[Chunk]:
    if any(EMA in part.values for part in held) and EMA not in state.keys:
        raise StateError(f"{state.folder} holds no average of the weights; type optimizer.ema=null to go on")
    return state.locate(
        [Target(key, part.name, part.start, value) for part in held for key, value in part.values.items()]
    )
