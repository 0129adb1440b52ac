"""Measure the time of steps, data waits and other work, and from it throughput, MFU and memory.

A window lasts from one log line to the next. Excluded time, such as that of an evaluation or a save, is reported
separately and is not part of the window's `seconds`, so the throughput is that of training alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import torch

from videomae.run.metrics.peak import PeakFlops
from videomae.run.metrics.plateau import TrivialLoss


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Size of a stage's model and cost of its training, for MFU and logs."""

    multiply_adds: Mapping[str, int]  # of one clip, forward and backward, by part of the model
    parameters: int
    lr_min_scale: float = 1.0  # the smallest learning rate factor of any parameter
    trivial: TrivialLoss | None = None  # the loss of an untrained model, where it is known

    @property
    def flops(self) -> int:
        """Floating-point operations per clip: two per multiply-add."""
        return 2 * sum(self.multiply_adds.values())


@dataclass
class Span:
    """The duration of a finished block."""

    seconds: float = 0.0


@dataclass
class Meter:
    """Measures the windows of one rank; `batch` is the global batch in clips, over `devices`."""

    batch: int
    devices: int
    flops: int  # per clip
    peak: PeakFlops  # of one device
    clock: Callable[[], float] = time.perf_counter
    _steps: int = field(default=0, init=False)
    _waited: float = field(default=0.0, init=False)
    _excluded: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._since = self.clock()

    def step(self) -> None:
        self._steps += 1

    @contextmanager
    def data_wait(self) -> Iterator[Span]:
        """Count the block as waiting for data."""
        start, span = self.clock(), Span()
        yield span
        span.seconds = self.clock() - start
        self._waited += span.seconds

    @contextmanager
    def exclude_time(self, name: str) -> Iterator[Span]:
        """Exclude the block from the training time; the window reports it as `name`_seconds."""
        start, span = self.clock(), Span()
        try:
            yield span
        finally:
            span.seconds = self.clock() - start
            self._excluded[name] = self._excluded.get(name, 0.0) + span.seconds

    @property
    def waited(self) -> float:
        """Seconds that this rank waited for data in this window."""
        return self._waited

    def restart(self) -> None:
        """Restart the window, as after a rollback."""
        self._steps, self._waited, self._since, self._excluded = 0, 0.0, self.clock(), {}

    def read(self, *, waited: float | None = None) -> dict[str, float | None]:
        """The window's metrics, and start the next window; `waited` is the longest data wait of any rank.

        seconds, step_seconds, samples_per_second, data_seconds, data_percent, teraflops per device, mfu (None if the
        peak is unknown), and `name`_seconds of each kind of excluded time.
        """
        seconds = max(self.clock() - self._since - sum(self._excluded.values()), 1e-9)
        longest = self._waited if waited is None else waited
        samples = self._steps * self.batch / seconds
        teraflops = samples * self.flops / self.devices / 1e12
        values: dict[str, float | None] = {
            "seconds": round(seconds, 4),
            "step_seconds": round(seconds / max(1, self._steps), 5),
            "samples_per_second": round(samples, 3),
            "data_seconds": round(longest, 4),
            "data_percent": round(min(100.0, 100 * longest / seconds), 2),
            "teraflops": _significant(teraflops),
            "mfu": None if self.peak.tflops is None else _significant(teraflops / self.peak.tflops),
        }
        values |= {f"{name}_seconds": round(spent, 4) for name, spent in self._excluded.items()}
        self.restart()
        return values


def memory_gb(device: torch.device) -> float:
    """Memory in 1e9 bytes: the peak of tensors on the GPU so far, or this process's resident memory now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9


def _significant(value: float) -> float:
    return float(f"{value:.4g}")
