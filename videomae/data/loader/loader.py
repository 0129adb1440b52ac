"""Streams of micro-batches, for training and for evaluation.

The main process sends explicit slots of the order to worker processes, which read, transform and collate the samples.
The number of workers and the prefetch therefore change no batch. Random numbers are drawn from (seed, epoch, position,
repeat). In training a bad sample is replaced by one that is a function of (seed, epoch, position, attempt), recorded,
and counted against a quota; in evaluation it is an error.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from videomae.core.errors import UserError
from videomae.data.loader.micro_batches import Batch, Item, MicroBatchMaker, Pipeline, RankSlice
from videomae.data.loader.prefetch import make_prefetchers
from videomae.data.loader.quarantine import BadSampleError, Quarantine
from videomae.data.loader.workers import LoaderConfig, load_micro_batches
from videomae.data.order.mixture import Mixture, Reader
from videomae.data.order.order import Order, SampleSlot
from videomae.data.shards.reader import ShardReader


def train_stream(
    reader: Reader,
    order: Order | Mixture,
    pipeline: Pipeline[Item, Batch],
    rank_slice: RankSlice,
    *,
    config: LoaderConfig,
    quarantine: Path,
) -> Iterator[Batch]:
    """Yield the micro-batches of a rank's slice of every global batch, without end.

    Raises:
        BadSampleError: more bad samples than `config.quota` allows.
        UserError: the batch does not divide into ranks and micro-batches.
    """
    samples, rest = divmod(order.batch, rank_slice.size)
    if rest or samples % rank_slice.micro_batch:
        raise UserError(
            f"a batch of {order.batch} samples does not divide into {rank_slice.size} ranks with micro-batches of "
            f"{rank_slice.micro_batch}; choose a multiple of {rank_slice.size * rank_slice.micro_batch}"
        )
    first, micro_batches = rank_slice.rank * samples, samples // rank_slice.micro_batch
    slots = _train_slots(order, rank_slice, first=first, stop=first + samples)
    maker = MicroBatchMaker(reader, pipeline, seed=order.seed, replacements=order.replacements)
    quarantined = Quarantine(quarantine, config.quota, samples=order.samples)
    with contextlib.ExitStack() as stack:
        prefetchers = make_prefetchers(reader, order, start=first, stop=first + samples)
        for prefetcher in prefetchers:
            stack.callback(prefetcher.close)
        # The micro-batches of one step may still be held while those of the next one are collected.
        loaded = load_micro_batches(maker, slots, config, held_batches=2 * micro_batches)
        for number, (batch, faults) in enumerate(loaded):
            step, index = divmod(number, micro_batches)
            for fault in faults:
                quarantined.record(fault, step=rank_slice.start + step)
            if index == micro_batches - 1:
                for prefetcher in prefetchers:
                    prefetcher.advance(rank_slice.start + step + 1)
            yield batch


def _train_slots(order: Order | Mixture, rank_slice: RankSlice, *, first: int, stop: int) -> Iterator[list[SampleSlot]]:
    """Yield the slots of each micro-batch in [first, stop) of the global batches, without end."""
    for number in itertools.count(rank_slice.start):
        slots = order.slots(number, first, stop)
        for offset in range(0, len(slots), rank_slice.micro_batch):
            yield slots[offset : offset + rank_slice.micro_batch]


def evaluation_stream(
    reader: ShardReader,
    pipeline: Pipeline[Item, Batch],
    rank_slice: RankSlice,
    *,
    config: LoaderConfig,
    samples: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yield each sample (or each of `samples`) of the rank's slice once; the last micro-batch may be smaller.

    Raises:
        BadSampleError: a sample cannot be read; evaluation replaces none.
    """
    ids = range(len(reader)) if samples is None else samples
    first, stop = (len(ids) * edge // rank_slice.size for edge in (rank_slice.rank, rank_slice.rank + 1))
    slots = [SampleSlot(0, position, int(ids[position])) for position in range(first, stop)]
    size = rank_slice.micro_batch
    cuts = [slots[offset : offset + size] for offset in range(0, len(slots), size)]
    maker = MicroBatchMaker(reader, pipeline, seed=0, replacements=None)
    for batch, faults in load_micro_batches(maker, cuts, config):
        for fault in faults:
            raise BadSampleError(f"{fault.shard}: sample {fault.key} cannot be evaluated: {fault.reason}")
        yield batch
