"""Ranks that are threads of one process: collectives without a network, for as many ranks as a test likes."""

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
_PATIENCE = 20.0  # seconds after which a rank that waits for another is an error


class Meeting:
    """Where the ranks exchange what they have."""

    def __init__(self, size: int) -> None:
        self._values: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=_PATIENCE)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        """Every rank's `value`."""
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values

    def leave(self) -> None:
        """Who still waits for this rank gets an error."""
        self._barrier.abort()


@dataclass(frozen=True)
class ThreadWorld(World):
    """A rank that is a thread."""

    meeting: Meeting = field(default_factory=lambda: Meeting(1))

    def all_gather_object(self, value: Any) -> list[Any]:
        return [pickle.loads(found) for found in self.meeting.exchange(self.rank, pickle.dumps(value))]

    def broadcast_object(self, value: Any) -> Any:
        return self.all_gather_object(value)[0]

    def all_gather_into(self, part: Tensor, *, into: Tensor) -> None:
        into.copy_(torch.cat(self.meeting.exchange(self.rank, part.clone())))


def on_threads(size: int, action: Callable[[World], T]) -> list[T | Exception]:
    """What `action(world)` gives, or raises, on each of `size` ranks."""
    meeting = Meeting(size)

    def run(rank: int) -> T | Exception:
        try:
            return action(ThreadWorld(rank, size, rank, torch.device("cpu"), meeting=meeting))
        except Exception as error:  # the test looks at it
            if isinstance(error, threading.BrokenBarrierError):
                meeting.leave()
            return error

    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(run, range(size)))
