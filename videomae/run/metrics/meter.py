"""What training costs: time in steps, in waiting and beside them, and from it throughput, MFU and memory.

A window runs from one log line to the next. Time that is spent `aside`, such as in an evaluation or a save, is told
apart and is no part of the window's `seconds`, so samples a second are those of training alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from videomae.run.metrics.peak import PeakFlops
from videomae.run.metrics.plateau import TrivialLoss


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a stage says of its own work, for those who measure it."""

    multiply_adds: Mapping[str, int]  # of one clip, forward and backward, by part of the model
    parameters: int
    lr_min_scale: float = 1.0  # the smallest factor on any parameter's rate
    trivial: TrivialLoss | None = None  # the loss of a model that has learnt nothing, where that is known

    @property
    def flops(self) -> int:
        """Operations on one clip: a multiply-add is two."""
        return 2 * sum(self.multiply_adds.values())


@dataclass
class Span:
    """How long something took, once it is over."""

    seconds: float = 0.0


@dataclass
class Meter:
    """Measures the windows of one rank; `batch` is the global batch, of clips, and `devices` share it."""

    batch: int
    devices: int
    flops: int  # operations on one clip
    peak: PeakFlops  # of one device
    clock: Callable[[], float] = time.perf_counter
    _steps: int = field(default=0, init=False)
    _waited: float = field(default=0.0, init=False)
    _aside: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._since = self.clock()

    def step(self) -> None:
        """A step is done."""
        self._steps += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done inside is waiting for data."""
        start = self.clock()
        yield
        self._waited += self.clock() - start

    @contextmanager
    def exclude_time(self, what: str) -> Iterator[Span]:
        """What is done inside is no training; this window's line tells it as `what`_seconds, and so does the span."""
        start, span = self.clock(), Span()
        try:
            yield span
        finally:
            span.seconds = self.clock() - start
            self._aside[what] = self._aside.get(what, 0.0) + span.seconds

    @property
    def waited(self) -> float:
        """Seconds that this rank has waited for data in this window."""
        return self._waited

    def restart(self) -> None:
        """Begin the window anew, as after going back to a checkpoint."""
        self._steps, self._waited, self._since, self._aside = 0, 0.0, self.clock(), {}

    def read(self, *, waited: float | None = None) -> dict[str, float | None]:
        """The window's figures, after which the next one begins; `waited` is the longest wait of any rank.

        seconds, samples_per_second, step_seconds, data_seconds, data_percent; teraflops a device and `mfu`, its share
        of the peak, None where the peak is unknown; and what was spent aside.
        """
        seconds = max(self.clock() - self._since - sum(self._aside.values()), 1e-9)
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
        values |= {f"{what}_seconds": round(spent, 4) for what, spent in self._aside.items()}
        self.restart()
        return values


def memory_gb(device: torch.device) -> float:
    """Memory in units of 1e9 bytes: the most that tensors took on a GPU so far, or what this process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def _significant(value: float) -> float:
    return float(f"{value:.4g}")
