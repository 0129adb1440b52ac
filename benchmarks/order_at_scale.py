"""Plays the order of a cluster job without any data: how soon a rank can start, and how many shards it touches.

Only the plan is computed, as a rank computes it: its slice of some batches, at some place of some epoch. A cache hit is
a read of a shard that one of the eight ranks of a node has fetched in these batches already.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from videomae.command import guarded
from videomae.core.errors import UserError
from videomae.data.order.order import Order, OrderConfig

RANKS_PER_NODE = 8
SHARD_SAMPLES = 10_000
_WATCHED_BATCHES = 200
_CURVE = (10**4, 10**6, 10**8, 10**10, 10**12)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one number of lanes means for a node in `batches` batches from the middle of an epoch."""

    lanes: int
    batches: int
    shards_per_rank: float
    shards_per_node: int
    cache_hits: float  # share of a node's reads that find their shard there


@dataclass(frozen=True, kw_only=True)
class Point:
    """The cost of planning for a data set and a job of one size."""

    samples: int
    ranks: int
    first_batch_seconds: float  # to the first batch of a rank, at the last place tried
    worst_seconds: float  # over the places tried
    next_batch_milliseconds: float


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """The figures of a simulated job."""

    samples: int
    ranks: int
    batch: int
    first_batch_seconds: float
    worst_seconds: float
    memory_megabytes: float  # grown while planning everything here
    plans: tuple[Plan, ...]
    curve: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The figures as text."""
        return [
            f"{self.samples:.3g} samples, {self.ranks} ranks, batches of {self.batch}",
            f"  first batch at any place of an epoch   {self.worst_seconds:.3f} s at worst",
            f"  memory grown                           {self.memory_megabytes:.1f} MB",
            f"  lanes   shards a rank   shards a node   cache hits   (in {self.plans[0].batches} batches)",
            *(
                f"  {plan.lanes:<8}{plan.shards_per_rank:<16.1f}{plan.shards_per_node:<16}{plan.cache_hits:.1%}"
                for plan in self.plans
            ),
            "  samples     ranks    first batch   next batch",
            *(
                f"  {point.samples:<12.0e}{point.ranks:<9}{point.worst_seconds:.3f} s       "
                f"{point.next_batch_milliseconds:.2f} ms"
                for point in self.curve
            ),
        ]


def simulate(*, samples: int, ranks: int, per_rank: int = 4, lanes: Sequence[int] = ()) -> Simulation:
    """Plan for `ranks` ranks that take `per_rank` samples of every batch. Raises OrderError, ValueError."""
    if samples < 1 or ranks < 1 or per_rank < 1:
        raise UserError(f"samples, ranks and samples a rank must be positive, got {samples}, {ranks}, {per_rank}")
    batch = ranks * per_rank
    before = _memory()
    tried = tuple(lanes) or _lane_counts(ranks)
    point = _measure(samples, ranks, per_rank, min(tried, key=lambda count: abs(count - ranks)))
    plans = tuple(_plan(samples, ranks, per_rank, count) for count in tried)
    curve = tuple(
        _measure(size, count, per_rank, min(count, max(1, size // SHARD_SAMPLES)))
        for size, count in [(size, min(ranks, 64)) for size in _CURVE]
        + [(samples, 2**power) for power in range(0, 15, 7)]
        if size >= count * per_rank
    )
    return Simulation(
        samples=samples,
        ranks=ranks,
        batch=batch,
        first_batch_seconds=point.first_batch_seconds,
        worst_seconds=point.worst_seconds,
        memory_megabytes=_memory() - before,
        plans=plans,
        curve=curve,
    )


def _lane_counts(ranks: int) -> tuple[int, ...]:
    """A lane a rank, a quarter and a sixteenth of that, and one lane."""
    return tuple(sorted({max(1, ranks >> shift) for shift in (0, 2, 4)} | {1}, reverse=True))


def _order(samples: int, batch: int, lanes: int) -> Order:
    return Order(OrderConfig(lanes=lanes), samples=samples, batch=batch, chunk=min(SHARD_SAMPLES, samples))


def _measure(samples: int, ranks: int, per_rank: int, lanes: int) -> Point:
    """Time, for a few ranks at a few places, a start from nothing to the first batch, and the batch after it."""
    lanes = max(count for count in range(1, lanes + 1) if ranks * per_rank % count == 0)
    taken, following = [], []
    for share in (0.0, 0.37, 0.9999):
        start = time.perf_counter()
        order = _order(samples, ranks * per_rank, lanes)
        number, rank = order.batches + int(order.batches * share), int((ranks - 1) * share)
        order.slots(number, rank * per_rank, (rank + 1) * per_rank)
        taken.append(time.perf_counter() - start)
        start = time.perf_counter()
        order.slots(number + 1, rank * per_rank, (rank + 1) * per_rank)
        following.append(time.perf_counter() - start)
    return Point(
        samples=samples,
        ranks=ranks,
        first_batch_seconds=taken[-1],
        worst_seconds=max(taken),
        next_batch_milliseconds=1000 * max(following),
    )


def _plan(samples: int, ranks: int, per_rank: int, lanes: int) -> Plan:
    """Follow one node's ranks through some batches and note the shards that they read."""
    order = _order(samples, ranks * per_rank, lanes)
    node = min(RANKS_PER_NODE, ranks)
    batches = min(_WATCHED_BATCHES, order.batches)
    first = order.batches + (order.batches - batches) // 2
    shards = np.array(
        [
            [place.sample // order.chunk for place in order.slots(first + number, 0, node * per_rank)]
            for number in range(batches)
        ]
    ).reshape(batches, node, per_rank)
    by_rank = [len(np.unique(shards[:, rank])) for rank in range(node)]
    touched = len(np.unique(shards))
    return Plan(
        lanes=lanes,
        batches=batches,
        shards_per_rank=float(np.mean(by_rank)),
        shards_per_node=touched,
        cache_hits=1 - touched / shards.size,
    )


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.order_at_scale", description=__doc__)
    parser.add_argument("--samples", type=float, default=1e10)
    parser.add_argument("--ranks", type=int, default=16384)
    parser.add_argument("--per-rank", type=int, default=4, help="samples that a rank takes of every batch")
    parser.add_argument("--lanes", default="", help="numbers of lanes, separated by commas")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args(arguments)

    def act() -> None:
        lanes = [int(count) for count in given.lanes.split(",") if count]
        result = simulate(samples=int(given.samples), ranks=given.ranks, per_rank=given.per_rank, lanes=lanes)
        print(json.dumps(result.to_json()) if given.json else "\n".join(result.lines()))

    return guarded(act)


if __name__ == "__main__":
    sys.exit(main())
