"""Run a `MicroBatchMaker` over slots, in the main process or in a `DataLoader`'s worker processes."""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.utils.data import DataLoader, Dataset

from videomae.core.config import configclass
from videomae.core.malloc import tune_malloc
from videomae.core.signals import block_signals, end_workers, ignore_signals
from videomae.data.loader.micro_batches import Batch, Item, MicroBatchMaker
from videomae.data.loader.quarantine import Fault, QuotaConfig
from videomae.data.loader.shared_batches import BatchHandle, SharedBatchPool
from videomae.data.order.order import SampleSlot

# For streams that were never closed. atexit runs in reverse order: this runs before the handlers of torch and
# multiprocessing, which were registered at their import.
atexit.register(end_workers)

_SPARE_BUFFERS = 4
_Task = tuple[int | None, Sequence[SampleSlot]]  # the buffer for a micro-batch, and its slots


@configclass
class LoaderConfig:
    """Worker processes and prefetching. No setting here changes the batches."""

    workers: NonNegativeInt = 1  # processes; 0 loads in the main process
    prefetch: PositiveInt = 2  # micro-batches that each worker prepares ahead
    start_method: Literal["fork", "spawn", "forkserver"] = "fork"
    pin_memory: bool | None = None  # page-locked batches, whose copies to a GPU overlap with computation; None: on GPUs
    quota: QuotaConfig = QuotaConfig()

    def on(self, device: torch.device) -> LoaderConfig:
        """The config for batches that go to `device`, with `pin_memory` decided."""
        return replace(self, pin_memory=device.type == "cuda" and self.pin_memory is not False)


def load_micro_batches(
    maker: MicroBatchMaker[Item, Batch],
    slots: Iterable[Sequence[SampleSlot]],
    config: LoaderConfig,
    *,
    held_batches: int = _SPARE_BUFFERS,
) -> Iterator[tuple[Any, list[Fault]]]:
    """Yield the micro-batch of each element of `slots`, in order, with the faults of its samples.

    If the consumer holds more than about `held_batches` at once, further ones travel by the `DataLoader`'s own way.
    """
    pool = SharedBatchPool(config.workers * config.prefetch + held_batches + _SPARE_BUFFERS)
    dataset, tasks = _PackedMicroBatches(maker, pool), _tasks(slots, pool)
    if not config.workers:
        tune_malloc()
        for task in tasks:
            handle = dataset[task]
            yield handle.pin_memory() if config.pin_memory else handle.open()
        return
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads: the workers share no lock with them.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        # torch warns of more workers than cores: the number is the user's choice, and some workers wait for a network.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=tasks,
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


class _PackedMicroBatches(Dataset[BatchHandle[tuple[Any, list[Fault]]]]):
    """Micro-batches packed for their transfer to the main process."""

    def __init__(self, maker: MicroBatchMaker[Any, Any], pool: SharedBatchPool) -> None:
        self._maker, self._pool = maker, pool

    def __getitem__(self, task: _Task) -> BatchHandle[tuple[Any, list[Fault]]]:
        index, slots = task
        return self._pool.pack(index, lambda buffer: self._maker.make(slots, buffer))


def _tasks(slots: Iterable[Sequence[SampleSlot]], pool: SharedBatchPool) -> Iterator[_Task]:
    """Yield the slots of each micro-batch with a buffer, which is acquired when the `DataLoader` asks for it."""
    for each in slots:
        yield pool.acquire(), each


def _start_worker(worker: int) -> None:
    """Ignore signals, which the main process handles before it ends its workers, and compute in one thread."""
    ignore_signals()
    torch.set_num_threads(1)
    tune_malloc()
