"""Streams of micro-batches: places from the order go to worker processes, which read, transform and collate.

The main process hands out explicit places, so the number of workers and the prefetch change nothing in what comes out.
Randomness is drawn from (seed, epoch, position, repeat). A bad sample in training is replaced by one that is a function
of (seed, epoch, position, attempt), written down and capped; in evaluation it is an error.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.core.signals import block_signals, end_workers, ignore_signals
from videomae.data.errors import ShardError
from videomae.data.loader.malloc import tune_malloc
from videomae.data.loader.prefetch import follow
from videomae.data.loader.quarantine import BadSampleError, Fault, Quarantine, QuotaConfig
from videomae.data.loader.shared_batches import BatchHandle, Memory, SharedBatchPool
from videomae.data.order.mixture import MixedReader, MixedReplacements, Mixture
from videomae.data.order.order import Order, Replacements, SampleSlot
from videomae.data.order.permutation import generator
from videomae.data.shards.reader import Sample, ShardReader
from videomae.data.video import VideoError

# For streams that nobody has closed. What torch and multiprocessing do at the exit was registered earlier and so runs
# later.
atexit.register(end_workers)
Item = TypeVar("Item")
Batch = TypeVar("Batch")
Transform = Callable[[Sample, tuple[np.random.Generator, ...]], list[Item]]
Collate = Callable[[list[Item]], Batch]

_AUGMENTATION = 4  # beside the order's own uses of the seed
_MOST_ATTEMPTS = 16
_FEW = 4  # micro-batches


@configclass
class LoaderConfig:
    """Who reads and how far ahead; nothing here changes the batches."""

    workers: int = 1  # processes; 0 reads in the main process
    prefetch: int = 2  # micro-batches that each worker prepares ahead
    start_method: Literal["fork", "spawn", "forkserver"] = "fork"
    pin_memory: bool | None = None  # on a GPU: page-locked batches, whose copies to it overlap with work; None: yes
    quota: QuotaConfig = QuotaConfig()

    def __post_init__(self) -> None:
        if self.workers < 0 or self.prefetch < 1:
            raise UserError(f"workers must be at least 0 and prefetch at least 1, got {self.workers}, {self.prefetch}")

    def on(self, device: torch.device) -> LoaderConfig:
        """The same for batches that go to `device`, with what was left to it decided."""
        pin = device.type == "cuda" and self.pin_memory is not False
        return replace(self, pin_memory=pin)


@dataclass(frozen=True)
class Pipeline(Generic[Item, Batch]):
    """What becomes of samples.

    `transform(sample, rngs)` gets `repeats` generators and returns that many items; `collate` gets those of all samples
    of a micro-batch.
    """

    transform: Transform[Item]
    collate: Collate[Item, Batch]
    _: KW_ONLY
    repeated_aug: int = 1


@dataclass(frozen=True)
class RankSlice:
    """A rank's contiguous part, in micro-batches of so many samples; in training of each batch from number `start`."""

    rank: int = 0
    size: int = 1
    _: KW_ONLY
    micro_batch: int
    start: int = 0


def train_stream(
    reader: ShardReader | MixedReader,
    order: Order | Mixture,
    preparation: Pipeline[Item, Batch],
    share: RankSlice,
    *,
    config: LoaderConfig,
    quarantine: Path,
) -> Iterator[Batch]:
    """A rank's micro-batches, without end. The order's batches are cut into shares, and each into micro-batches.

    Raises:
        BadSampleError: more bad samples than `config.quota` allows.
        UserError: the batch does not divide into ranks and micro-batches.
    """
    places = _TrainPlaces(order, share)
    dataset = _MicroBatches(reader, preparation, seed=order.seed, replacements=order.replacements)
    listed = Quarantine(quarantine, config.quota, samples=order.samples)
    with contextlib.ExitStack() as stack:
        ahead = follow(reader, order, start=places.first, stop=places.first + places.samples)
        for each in ahead:
            stack.callback(each.close)
        in_batch = places.samples // share.micro_batch
        # Those of one batch may still be held while those of the next are gathered.
        for number, (batch, faults) in enumerate(_load(dataset, places, config, held_at_once=2 * in_batch)):
            step, rest = divmod(number, in_batch)
            for fault in faults:
                listed.record(fault, step=share.start + step)
            for each in ahead if rest == in_batch - 1 else ():
                each.advance(share.start + step + 1)
            yield batch


def evaluation_stream(
    reader: ShardReader,
    preparation: Pipeline[Item, Batch],
    share: RankSlice,
    *,
    config: LoaderConfig,
    samples: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Each sample (or each of `samples`) of the share once, the last micro-batch smaller.

    Raises:
        BadSampleError: a sample that cannot be read; nothing is replaced here.
    """
    ids = range(len(reader)) if samples is None else samples
    first, last = (len(ids) * edge // share.size for edge in (share.rank, share.rank + 1))
    places = [SampleSlot(0, position, int(ids[position])) for position in range(first, last)]
    cuts = [places[cut : cut + share.micro_batch] for cut in range(0, len(places), share.micro_batch)]
    dataset = _MicroBatches(reader, preparation, seed=0, replacements=None)
    for batch, faults in _load(dataset, cuts, config):
        for fault in faults:
            raise BadSampleError(f"{fault.shard}: sample {fault.key} cannot be evaluated: {fault.reason}")
        yield batch


class _TrainPlaces:
    """A rank's micro-batches of places, without end. Raises ValueError; see above."""

    def __init__(self, order: Order | Mixture, share: RankSlice) -> None:
        self.samples, rest = divmod(order.batch, share.size)
        if rest or self.samples % share.micro_batch:
            raise UserError(
                f"a batch of {order.batch} samples does not divide into {share.size} ranks with micro-batches of"
                f" {share.micro_batch}; choose a batch that is a multiple of {share.size * share.micro_batch}"
            )
        self.first = share.rank * self.samples
        self._order, self._share = order, share

    def __iter__(self) -> Iterator[list[SampleSlot]]:
        micro_batch = self._share.micro_batch
        for number in itertools.count(self._share.start):
            places = self._order.slots(number, self.first, self.first + self.samples)
            for cut in range(0, self.samples, micro_batch):
                yield places[cut : cut + micro_batch]


class _MicroBatches(Generic[Item, Batch]):
    """From places to their micro-batch; faults come back as values, so that the main process can count them."""

    def __init__(
        self,
        reader: ShardReader | MixedReader,
        preparation: Pipeline[Item, Batch],
        *,
        seed: int,
        replacements: Replacements | MixedReplacements | None,
    ) -> None:
        self._reader, self._preparation, self._seed = reader, preparation, seed
        self._replacements = replacements

    def make(self, places: Sequence[SampleSlot], memory: Memory) -> tuple[Batch | None, list[Fault]]:
        """The micro-batch, or None if no sample can be used, and what was wrong with some."""
        items: list[Item] = []
        faults: list[Fault] = []
        for place in places:
            items += self._items_at(place, faults, memory)
        return (self._preparation.collate(items) if items else None), faults

    def _items_at(self, place: SampleSlot, faults: list[Fault], memory: Memory) -> list[Item]:
        sample, used = place.sample, memory.used
        for attempt in range(_MOST_ATTEMPTS):
            try:
                return self._items(place, sample)
            except (ShardError, VideoError) as error:
                memory.used = used  # clips follow each other there
                faults.append(self._fault(sample, error))
            if self._replacements is None:
                return []
            sample = self._replacements.sample(place, attempt)
        raise BadSampleError(f"{_MOST_ATTEMPTS} samples in a row are bad, the last: {faults[-1]}; check the shards")

    def _items(self, place: SampleSlot, sample: int) -> list[Item]:
        rngs = tuple(
            generator(key=(self._seed, place.epoch), counter=(place.position, repeat, _AUGMENTATION))
            for repeat in range(self._preparation.repeated_aug)
        )
        return self._preparation.transform(self._reader.read(sample, weight=place.weight), rngs)

    def _fault(self, sample: int, error: ValueError) -> Fault:
        shard, key = self._reader.shard_and_key(sample)
        return Fault(shard=shard, key=key, reason=str(error))


_Task = tuple[int | None, Sequence[SampleSlot]]  # the slab that the micro-batch goes into, and what it is made of


class _Parcels(Dataset[BatchHandle[tuple[Any, list[Fault]]]]):
    """The micro-batches, packed for their way to the main process."""

    def __init__(self, dataset: _MicroBatches[Any, Any], slabs: SharedBatchPool) -> None:
        self._dataset, self._slabs = dataset, slabs

    def __getitem__(self, task: _Task) -> BatchHandle[tuple[Any, list[Fault]]]:
        slab, places = task
        return self._slabs.pack(slab, lambda memory: self._dataset.make(places, memory))


class _Tasks:
    """The next places, and a slab for each, when the `DataLoader` asks for them."""

    def __init__(self, places: Iterable[Sequence[SampleSlot]], slabs: SharedBatchPool) -> None:
        self._places, self._slabs = places, slabs

    def __iter__(self) -> Iterator[_Task]:
        for cut in self._places:
            yield self._slabs.take(), cut


def _load(
    dataset: _MicroBatches[Item, Batch],
    places: Iterable[Sequence[SampleSlot]],
    config: LoaderConfig,
    *,
    held_at_once: int = _FEW,
) -> Iterator[tuple[Any, list[Fault]]]:
    """Make the micro-batches of places, in order, here or in worker processes.

    If more than about `held_at_once` are held by whoever iterates, some travel the stock way.
    """
    slabs = SharedBatchPool(config.workers * config.prefetch + held_at_once + _FEW)
    parcels, tasks = _Parcels(dataset, slabs), _Tasks(places, slabs)
    if not config.workers:
        tune_malloc()
        for task in tasks:
            parcel = parcels[task]
            yield parcel.pin_memory() if config.pin_memory else parcel.open()
        return
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads: the workers share no lock with them.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        # torch warns of more workers than cores: the config says how many, and some wait for a network.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader = DataLoader(
            parcels,
            batch_size=None,
            sampler=tasks,
            collate_fn=_as_it_is,
            num_workers=config.workers,
            prefetch_factor=config.prefetch,
            multiprocessing_context=config.start_method,
            worker_init_fn=_start_worker,
            pin_memory=bool(config.pin_memory),
        )
        with block_signals():
            batches = iter(loader)
    for loaded in batches:
        yield loaded.open() if isinstance(loaded, BatchHandle) else loaded  # the pinning thread has opened it


def _as_it_is(parcel: Any) -> Any:
    return parcel


def _start_worker(worker: int) -> None:
    """Leave signals to the main process, which saves and then ends the workers; one thread, and a heap that lasts."""
    ignore_signals()
    torch.set_num_threads(1)
    tune_malloc()
