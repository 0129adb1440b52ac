"""The training batches of a run on one rank; which samples they hold depends on the config alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.data.clips import ClipsConfig
from videomae.data.datasets import DataSets
from videomae.data.loader.loader import LoaderConfig, Pipeline, RankSlice, Transform, train_stream
from videomae.data.order.order import OrderConfig

Item = TypeVar("Item")
Batch = TypeVar("Batch")


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How a global batch is split: `micro_batches` forward passes a step on each rank, of `micro_batch` clips each."""

    batch: int  # clips a step, over all ranks
    micro_batch: int
    micro_batches: int
    seed: int
    loader: LoaderConfig
    quarantine: Path  # file that lists the samples that could not be read


class BatchStream(Generic[Item, Batch]):
    """One rank's part of global batches of `plan.batch` clips; `data.repeated_aug` clips come from one decoded video.

    Raises:
        UserError: the batch does not divide into ranks, micro-batches and whole videos.
    """

    def __init__(
        self,
        plan: BatchPlan,
        sets: DataSets,
        world: World,
        *,
        data: ClipsConfig,
        transform: Transform[Item],
        collate: Callable[[list[Item]], Batch],
    ) -> None:
        self._plan, self._sets, self._world = plan, sets, world
        self._transform, self._collate, self._repeats = transform, collate, data.repeated_aug
        if plan.micro_batch % data.repeated_aug:
            raise UserError(
                f"a micro-batch of {plan.micro_batch} clips does not hold whole videos: "
                f"data.repeated_aug={data.repeated_aug}; choose batch and engine.micro_batch as multiples of it"
            )
        self._videos = plan.micro_batch // data.repeated_aug
        order = OrderConfig(seed=plan.seed, partial=data.partial)
        self._order = sets.order(order, plan.batch // data.repeated_aug)

    @property
    def batches_per_epoch(self) -> int:
        """Global batches in an epoch; of several data sets, in an epoch of the one that takes longest."""
        return self._order.batches

    def batches(self, start: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of every global batch from number `start` on, without end."""
        stream = train_stream(
            self._sets.reader(),
            self._order,
            Pipeline(self._transform, self._collate, repeated_aug=self._repeats),
            RankSlice(self._world.rank, self._world.size, micro_batch=self._videos, start=start),
            config=self._plan.loader,
            quarantine=self._plan.quarantine,
        )
        while True:
            yield list(itertools.islice(stream, self._plan.micro_batches))
