"""Report the ranks that slow down all others, by host.

In a synchronous step all ranks take the same time, because the fast ones wait. What differs is a rank's own time: the
wait for its data and its forward passes, which involve no other rank (with ZeRO 3 the forward pass gathers parameters,
and only the data wait is meaningful). The ranks compare their own times at every log line. A rank that is much slower
than the median for several consecutive lines is reported in the log and in metrics.jsonl.
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
_MIN_FRACTION = 0.05  # of a step's time: a smaller loss is not reported


class Stragglers:
    """Compares the ranks' own times; all ranks call `compare` at the same steps."""

    def __init__(self, config: HealthConfig, world: World, *, report: Callable[..., None]) -> None:
        self._config, self._world, self._report = config, world, report
        self._hosts: list[str] = world.all_gather_object(socket.gethostname())
        self._clock = _Clock(on_gpu=world.device.type == "cuda")
        self._data_wait = 0.0
        self._since = time.perf_counter()
        self._streaks = [0] * world.size

    def timed(self, loss_fn: Callable[[nn.Module, Batch], Tensor]) -> Callable[[nn.Module, Batch], Tensor]:
        """`loss_fn`, whose time counts as this rank's own."""
        if self._world.size == 1:
            return loss_fn

        def measured(module: nn.Module, batch: Batch) -> Tensor:
            with self._clock.span():
                return loss_fn(module, batch)

        return measured

    def add_data_wait(self, seconds: float) -> None:
        """Count `seconds` of waiting for data as this rank's own time."""
        self._data_wait += seconds

    def compare(self, step: int, *, steps: int) -> None:
        """Compare the own times of the last `steps` steps, up to `step`."""
        if self._world.size == 1:
            return
        own_seconds = torch.tensor((self._data_wait + self._clock.take()) / steps, device=self._world.device)
        seconds_R = self._world.all_gather_scalar(own_seconds).tolist()
        now = time.perf_counter()
        self._report_slow(step, seconds_R, (now - self._since) / steps)
        self._data_wait, self._since = 0.0, now

    def _report_slow(self, step: int, seconds_R: Sequence[float], wall: float) -> None:
        median = statistics.median_low(seconds_R)
        for rank, seconds in enumerate(seconds_R):
            slow = seconds >= self._config.straggler * median and seconds - median >= _MIN_FRACTION * wall
            before = self._streaks[rank]
            self._streaks[rank] = before + 1 if slow else 0
            needed, host = self._config.straggler_windows, self._hosts[rank]
            compared = f"{seconds:.3g} s of its own per step, the median rank {median:.3g} s"
            if self._streaks[rank] == needed:
                self._warn(f"rank {rank} on {host} slows down all ranks: {compared}")
                values: dict[str, Any] = {"rank": rank, "host": host, "seconds": seconds, "median_seconds": median}
                self._report("straggler", step, **values)
            elif before >= needed and not slow:
                self._warn(f"rank {rank} on {host} is no longer slow: {compared}")

    def _warn(self, text: str) -> None:
        if self._world.is_main:
            logger.warning(text)


class _Clock:
    """Sums the time of blocks: host time, or on a GPU, which executes later, that between events in its stream."""

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._spans: list[tuple[Any, Any]] = []

    @contextmanager
    def span(self) -> Iterator[None]:
        began = self._now()
        yield
        self._spans.append((began, self._now()))

    def take(self) -> float:
        """The seconds since the last call; waits for the device."""
        spans, self._spans = self._spans, []
        if not self._on_gpu:
            return sum(ended - began for began, ended in spans)
        if spans:
            spans[-1][1].synchronize()
        return sum(began.elapsed_time(ended) for began, ended in spans) / 1e3

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
