"""Names the ranks that hold the others up, by host.

In a synchronous step all ranks take the same time, most of them by waiting. What tells them apart is a rank's own
work: the wait for its data and its forward passes, in which it waits for nobody (with ZeRO 3 the forward pass gathers
weights, and only the data tells). The ranks compare these at every log line; one that takes much longer than the median
several lines in a row is named in the log and in metrics.jsonl.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from videomae.core.distributed import World
from videomae.core.progress import logger
from videomae.run.health.guard import HealthConfig

Batch = TypeVar("Batch")
_LEAST_SHARE = 0.05  # of a step's time: who loses less than this holds nobody up


class Stragglers:
    """Compares the ranks; `look` is called by all of them at the same steps."""

    def __init__(self, config: HealthConfig, world: World, *, report: Callable[..., None]) -> None:
        self._config, self._world, self._report = config, world, report
        self._hosts: list[str] = world.all_gather_object(socket.gethostname())
        self._clock = _DeviceClock() if world.device.type == "cuda" else _HostClock()
        self._waited = 0.0
        self._since = time.perf_counter()
        self._streaks = [0] * world.size

    def timed(self, loss_of: Callable[[nn.Module, Batch], Tensor]) -> Callable[[nn.Module, Batch], Tensor]:
        """`loss_of`, its time counted as this rank's own work."""
        if self._world.size == 1:
            return loss_of

        def measured(module: nn.Module, batch: Batch) -> Tensor:
            with self._clock.span():
                return loss_of(module, batch)

        return measured

    def add_data_wait(self, seconds: float) -> None:
        """This rank has waited for its data."""
        self._waited += seconds

    def compare(self, step: int, *, steps: int) -> None:
        """Compare the own work of the last `steps` steps, up to `step`."""
        if self._world.size == 1:
            return
        own = torch.tensor((self._waited + self._clock.take()) / steps, device=self._world.device)
        seconds_R = self._world.all_gather_scalar(own).tolist()
        now = time.perf_counter()
        self._name(step, seconds_R, (now - self._since) / steps)
        self._waited, self._since = 0.0, now

    def _name(self, step: int, seconds_R: Sequence[float], wall: float) -> None:
        median = statistics.median_low(seconds_R)
        for rank, seconds in enumerate(seconds_R):
            slow = seconds >= self._config.straggler * median and seconds - median >= _LEAST_SHARE * wall
            was = self._streaks[rank]
            self._streaks[rank] = was + 1 if slow else 0
            named, host = self._config.straggler_windows, self._hosts[rank]
            compared = f"{seconds:.3g} s of own work a step, the median rank {median:.3g} s"
            if self._streaks[rank] == named:
                self._warn(f"rank {rank} on {host} holds the others up: {compared}")
                values: dict[str, Any] = {"rank": rank, "host": host, "seconds": seconds, "median_seconds": median}
                self._report("straggler", step, **values)
            elif was >= named and not slow:
                self._warn(f"rank {rank} on {host} keeps up again: {compared}")

    def _warn(self, text: str) -> None:
        if self._world.is_main:
            logger.warning(text)


class _HostClock:
    """Time on the host, for devices that work when they are told to."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @contextmanager
    def span(self) -> Iterator[None]:
        """Count what is done inside."""
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began

    def take(self) -> float:
        """The seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class _DeviceClock:
    """Time on the GPU, by events in its stream; nothing waits before `take`."""

    def __init__(self) -> None:
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def span(self) -> Iterator[None]:
        """Count what is queued inside."""
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        yield
        ended.record()
        self._spans.append((began, ended))

    def take(self) -> float:
        """The seconds since the last call; waits for the device."""
        spans, self._spans = self._spans, []
        if spans:
            spans[-1][1].synchronize()
        return sum(began.elapsed_time(ended) for began, ended in spans) / 1e3
