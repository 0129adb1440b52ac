"""Ranks as threads of one process: collectives without a network, for any number of ranks."""

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from videomae.core.distributed import World

T = TypeVar("T")
_TIMEOUT = 300.0  # seconds after which a rank that waits for another fails


class ThreadGroup:
    """Exchanges values among the ranks."""

    def __init__(self, size: int) -> None:
        self._values: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=_TIMEOUT)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        """Return every rank's `value`."""
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values

    def abort(self) -> None:
        """Raise an error in the ranks that wait for this one."""
        self._barrier.abort()


@dataclass(frozen=True)
class ThreadWorld(World):
    """One rank."""

    group: ThreadGroup = field(default_factory=lambda: ThreadGroup(1))

    def all_gather_object(self, value: Any) -> list[Any]:
        return [pickle.loads(found) for found in self.group.exchange(self.rank, pickle.dumps(value))]

    def broadcast_object(self, value: Any) -> Any:
        return self.all_gather_object(value)[0]

    def all_gather_into(self, part: Tensor, *, into: Tensor) -> None:
        into.copy_(torch.cat(self.group.exchange(self.rank, part.clone())))


def on_threads(size: int, action: Callable[[World], T]) -> list[T | Exception]:
    """Return what `action(world)` returns, or raises, on each of `size` ranks."""
    group = ThreadGroup(size)

    def run(rank: int) -> T | Exception:
        try:
            return action(ThreadWorld(rank, size, rank, torch.device("cpu"), group=group))
        except Exception as error:  # the test looks at it
            if isinstance(error, threading.BrokenBarrierError):
                group.abort()
            return error

    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(run, range(size)))
