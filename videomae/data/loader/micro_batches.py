"""Make micro-batches from slots of the order: read the samples, transform and collate them, replace bad ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Generic, TypeVar

import numpy as np

from videomae.data.batch import AllocClip
from videomae.data.errors import ShardError
from videomae.data.loader.quarantine import BadSampleError, Fault
from videomae.data.loader.shared_batches import BatchBuffer
from videomae.data.order.mixture import MixedReplacements, Reader
from videomae.data.order.order import Replacements, SampleSlot
from videomae.data.order.permutation import generator
from videomae.data.shards.reader import Sample
from videomae.data.video import VideoError

Item = TypeVar("Item")
Batch = TypeVar("Batch")
Transform = Callable[[Sample, tuple[np.random.Generator, ...], AllocClip | None], list[Item]]
Collate = Callable[[list[Item], AllocClip | None], Batch]

_AUGMENTATION = 4  # the use of the seed; `order` has the others
_MAX_REPLACEMENTS = 16


@dataclass(frozen=True)
class Pipeline(Generic[Item, Batch]):
    """The functions that turn samples into a micro-batch.

    `transform(sample, rngs, alloc)` gets `repeated_aug` generators and returns that many items; `collate(items, alloc)`
    gets the items of all samples of the micro-batch. `alloc(shape)` is uint8 memory in the buffer that the micro-batch
    is made in: clips written there one after another are not copied again. Without such a buffer `alloc` is None.
    """

    transform: Transform[Item]
    collate: Collate[Item, Batch]
    _: KW_ONLY
    repeated_aug: int = 1


@dataclass(frozen=True)
class RankSlice:
    """A rank's contiguous slice, in micro-batches of `micro_batch` samples; training starts at global batch `start`."""

    rank: int = 0
    size: int = 1
    _: KW_ONLY
    micro_batch: int
    start: int = 0


class MicroBatchMaker(Generic[Item, Batch]):
    """Makes micro-batches, in the main process or in workers. Faults are returned, for the main process to count."""

    def __init__(
        self,
        reader: Reader,
        pipeline: Pipeline[Item, Batch],
        *,
        seed: int,
        replacements: Replacements | MixedReplacements | None,
    ) -> None:
        self._reader, self._pipeline, self._seed = reader, pipeline, seed
        self._replacements = replacements

    def make(self, slots: Sequence[SampleSlot], buffer: BatchBuffer) -> tuple[Batch | None, list[Fault]]:
        """The micro-batch, or None if no sample is usable, and the faults of the bad samples.

        Raises:
            BadSampleError: too many replacements in a row are bad, too.
        """
        items: list[Item] = []
        faults: list[Fault] = []
        for slot in slots:
            items += self._items_at(slot, faults, buffer)
        return (self._pipeline.collate(items, buffer.alloc) if items else None), faults

    def _items_at(self, slot: SampleSlot, faults: list[Fault], buffer: BatchBuffer) -> list[Item]:
        sample, used = slot.sample, buffer.used
        for attempt in range(_MAX_REPLACEMENTS):
            try:
                return self._items(slot, sample, buffer.alloc)
            except (ShardError, VideoError) as error:
                buffer.used = used  # the next clip must be adjacent to the last good one
                shard, key = self._reader.shard_and_key(sample)
                faults.append(Fault(shard=shard, key=key, reason=str(error)))
            if self._replacements is None:
                return []
            sample = self._replacements.sample(slot, attempt)
        raise BadSampleError(f"{_MAX_REPLACEMENTS} samples in a row are bad, the last: {faults[-1]}; check the shards")

    def _items(self, slot: SampleSlot, sample: int, alloc: AllocClip | None) -> list[Item]:
        rngs = tuple(
            generator(key=(self._seed, slot.epoch), counter=(slot.position, repeat, _AUGMENTATION))
            for repeat in range(self._pipeline.repeated_aug)
        )
        return self._pipeline.transform(self._reader.read(sample, weight=slot.weight), rngs, alloc)
