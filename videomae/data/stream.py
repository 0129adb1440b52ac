"""The training batches of one rank. Which samples a global batch holds does not depend on ranks or workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import PositiveInt

from videomae.core.config import configclass
from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.data.datasets import DataSets
from videomae.data.loader.loader import train_stream
from videomae.data.loader.micro_batches import Collate, Pipeline, RankSlice, Transform
from videomae.data.loader.workers import LoaderConfig
from videomae.data.order.order import OrderConfig, Partial

Item = TypeVar("Item")
Batch = TypeVar("Batch")


@configclass
class ClipsConfig:
    """The data settings that every training stage shares; the configs of the stages add their own."""

    repeated_aug: PositiveInt = (
        1  # clips from one decoded video, each cropped and masked anew (VideoMAEv2, section 3.2: 4)
    )
    # The last, incomplete batch of an epoch. drop: its samples are left out, different ones in each epoch. pad: each
    # sample comes exactly once an epoch, and the batch is filled with samples of weight 0 in loss and gradients. Such a
    # step averages over the real samples alone: the fewer they are, the noisier it is (health.spike covers it like any
    # step). Batch norm statistics include the padding, and samples_per_second counts it.
    partial: Partial = "drop"


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
    """One rank's share of global batches of `plan.batch` clips; `data.repeated_aug` clips come from each decoded video.

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
        collate: Collate[Item, Batch],
    ) -> None:
        self._plan, self._sets, self._world = plan, sets, world
        self._pipeline = Pipeline(transform, collate, repeated_aug=data.repeated_aug)
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
        """Global batches in an epoch; with several data sets, in an epoch of the one that takes longest."""
        return self._order.batches

    def batches(self, start: int) -> Iterator[list[Batch]]:
        """Yield this rank's micro-batches of each global batch from number `start` on, without end."""
        stream = train_stream(
            self._sets.reader(),
            self._order,
            self._pipeline,
            RankSlice(self._world.rank, self._world.size, micro_batch=self._videos, start=start),
            config=self._plan.loader,
            quarantine=self._plan.quarantine,
        )
        while True:
            yield list(itertools.islice(stream, self._plan.micro_batches))
