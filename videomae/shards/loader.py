"""Streams of micro-batches: places from the order go to worker processes, which read, transform and collate.

The main process hands out explicit places, so the number of workers and the prefetch change nothing in what comes out.
Randomness is drawn from (seed, epoch, position, repeat). A bad sample in training is replaced by one that is a function
of (seed, epoch, position, attempt), written down and capped; in evaluation it is an error.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from videomae.config import configclass
from videomae.health.stopping import held, ignore
from videomae.shards.heap import keep_memory
from videomae.shards.lookahead import follow
from videomae.shards.manifest import ShardError
from videomae.shards.mixture import MixedReader, MixedReplacements, Mixture
from videomae.shards.order import Order, Place, Replacements
from videomae.shards.permutation import generator
from videomae.shards.quarantine import BadSampleError, Fault, Quarantine, QuotaConfig
from videomae.shards.reader import Sample, ShardReader
from videomae.video import VideoError

Item = TypeVar("Item")
Batch = TypeVar("Batch")
Transform = Callable[[Sample, tuple[np.random.Generator, ...]], list[Item]]
Collate = Callable[[list[Item]], Batch]

_AUGMENTATION = 4  # beside the order's own uses of the seed
_MOST_ATTEMPTS = 16


@configclass
class LoaderConfig:
    """Who reads and how far ahead; nothing here changes the batches."""

    workers: int = 1  # processes; 0 reads in the main process
    prefetch: int = 2  # micro-batches that each worker prepares ahead
    start_method: Literal["fork", "spawn", "forkserver"] = "fork"
    pin_memory: bool | None = None  # page-locked batches, whose copies to a GPU overlap with work; None: on a GPU
    quota: QuotaConfig = QuotaConfig()

    def __post_init__(self) -> None:
        if self.workers < 0 or self.prefetch < 1:
            raise ValueError(f"workers must be at least 0 and prefetch at least 1, got {self.workers}, {self.prefetch}")

    def on(self, device: torch.device) -> LoaderConfig:
        """The same for batches that go to `device`, with what was left to it decided."""
        pin = device.type == "cuda" if self.pin_memory is None else self.pin_memory
        return replace(self, pin_memory=pin)


def train_stream(
    *,
    reader: ShardReader | MixedReader,
    order: Order | Mixture,
    transform: Transform[Item],
    collate: Collate[Item, Batch],
    rank: int,
    size: int,
    micro_batch: int,
    start_batch: int,
    repeats: int,
    config: LoaderConfig,
    quarantine: Path,
) -> Iterator[Batch]:
    """This rank's micro-batches, without end, from global batch `start_batch` on.

    `micro_batch` counts samples; `transform(sample, rngs)` gets `repeats` generators and returns that many items, and
    `collate` the micro_batch * repeats items. The order's batch is cut into `size` contiguous shares, each into
    micro-batches.

    Raises:
        BadSampleError: more bad samples than `config.quota` allows.
        ValueError: the batch does not divide into ranks and micro-batches.
    """
    places = _TrainPlaces(order, rank=rank, size=size, micro_batch=micro_batch, first=start_batch)
    dataset = _Samples(reader, transform, seed=order.seed, repeats=repeats, replacements=order.replacements)
    listed = Quarantine(quarantine, config.quota, samples=order.samples)
    with contextlib.ExitStack() as stack:
        ahead = follow(reader, order, start=places.start, stop=places.start + places.share)
        for each in ahead:
            stack.callback(each.close)
        for number, (batch, faults) in enumerate(_load(dataset, places, collate, config)):
            step, rest = divmod(number, places.share // micro_batch)
            for fault in faults:
                listed.record(fault, step=start_batch + step)
            for each in ahead if rest == 0 else ():
                each.advance(start_batch + step)
            yield batch


def evaluation_stream(
    *,
    reader: ShardReader,
    transform: Transform[Item],
    collate: Collate[Item, Batch],
    rank: int,
    size: int,
    micro_batch: int,
    config: LoaderConfig,
    samples: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Each sample (or each of `samples`) once, this rank's contiguous share, the last micro-batch smaller.

    Raises:
        BadSampleError: a sample that cannot be read; nothing is replaced here.
    """
    ids = range(len(reader)) if samples is None else samples
    first, last = (len(ids) * edge // size for edge in (rank, rank + 1))
    places = [Place(0, position, int(ids[position])) for position in range(first, last)]
    cuts = [places[cut : cut + micro_batch] for cut in range(0, len(places), micro_batch)]
    dataset = _Samples(reader, transform, seed=0, repeats=1, replacements=None)
    for batch, faults in _load(dataset, cuts, collate, config):
        for fault in faults:
            raise BadSampleError(f"{fault.shard}: sample {fault.key} cannot be evaluated: {fault.reason}")
        yield batch


class _TrainPlaces:
    """A rank's micro-batches of places from global batch `first` on, without end. Raises ValueError; see above."""

    def __init__(self, order: Order | Mixture, *, rank: int, size: int, micro_batch: int, first: int) -> None:
        self.share, rest = divmod(order.batch, size)
        if rest or self.share % micro_batch:
            raise ValueError(
                f"a batch of {order.batch} samples does not divide into {size} ranks with micro-batches of"
                f" {micro_batch}; choose a batch that is a multiple of {size * micro_batch}"
            )
        self.start = rank * self.share
        self._order, self._micro_batch, self._first = order, micro_batch, first

    def __iter__(self) -> Iterator[list[Place]]:
        for number in itertools.count(self._first):
            places = self._order.places(number, self.start, self.start + self.share)
            for cut in range(0, self.share, self._micro_batch):
                yield places[cut : cut + self._micro_batch]


class _Samples(Dataset[tuple[list[Item], list[Fault]]], Generic[Item]):
    """From a place to its items; faults come back as values, so that the main process can count them."""

    def __init__(
        self,
        reader: ShardReader | MixedReader,
        transform: Transform[Item],
        *,
        seed: int,
        repeats: int,
        replacements: Replacements | MixedReplacements | None,
    ) -> None:
        self._reader, self._transform, self._seed, self._repeats = reader, transform, seed, repeats
        self._replacements = replacements

    def __getitem__(self, place: Place) -> tuple[list[Item], list[Fault]]:
        faults: list[Fault] = []
        sample = place.sample
        for attempt in range(_MOST_ATTEMPTS):
            try:
                return self._items(place, sample), faults
            except (ShardError, VideoError) as error:
                faults.append(self._fault(sample, error))
            if self._replacements is None:
                return [], faults
            sample = self._replacements.sample(place, attempt)
        raise BadSampleError(f"{_MOST_ATTEMPTS} samples in a row are bad, the last: {faults[-1]}; check the shards")

    def _items(self, place: Place, sample: int) -> list[Item]:
        rngs = tuple(
            generator(key=(self._seed, place.epoch), counter=(place.position, repeat, _AUGMENTATION))
            for repeat in range(self._repeats)
        )
        return self._transform(self._reader.read(sample, weight=place.weight), rngs)

    def _fault(self, sample: int, error: ValueError) -> Fault:
        shard, key = self._reader.where(sample)
        return Fault(shard=shard, key=key, reason=str(error))


class _Collate(Generic[Item, Batch]):
    """Flattens the items of a micro-batch's samples; nothing is collated when a fault is an error."""

    def __init__(self, collate: Collate[Item, Batch]) -> None:
        self._collate = collate

    def __call__(self, loaded: list[tuple[list[Item], list[Fault]]]) -> tuple[Batch | None, list[Fault]]:
        items = [item for found, _ in loaded for item in found]
        faults = [fault for _, found in loaded for fault in found]
        return (self._collate(items) if items else None), faults


def _load(
    dataset: _Samples[Item], places: Any, collate: Collate[Item, Batch], config: LoaderConfig
) -> Iterator[tuple[Any, list[Fault]]]:
    """Run the dataset over micro-batches of places, in order, here or in worker processes."""
    together = _Collate(collate)
    if not config.workers:
        keep_memory()
        for cut in places:
            batch, faults = together([dataset[place] for place in cut])
            yield (pin_memory(batch) if config.pin_memory else batch), faults
        return
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads: the workers share no lock with them.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        # torch warns of more workers than cores: the config says how many, and some wait for a network.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader = DataLoader(
            dataset,
            batch_sampler=places,
            collate_fn=together,
            num_workers=config.workers,
            prefetch_factor=config.prefetch,
            multiprocessing_context=config.start_method,
            worker_init_fn=_start_worker,
            pin_memory=bool(config.pin_memory),
        )
        with held():
            batches = iter(loader)
    yield from batches


def _start_worker(worker: int) -> None:
    """Leave signals to the main process, which saves and then ends the workers; one thread, and a heap that lasts."""
    ignore()
    torch.set_num_threads(1)
    keep_memory()
