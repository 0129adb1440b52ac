"""Time and memory of training steps, on the CPU and on CUDA: the clock of a step's phases, and the peak of an action.

On CUDA the clock records events in the stream, so that nothing waits for the device until the figures are read.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile

PHASES = ("data", "forward", "backward", "optimizer")


@dataclass
class Clock:
    """Marks the ends of a step's phases. The backward pass ends, with the norm, where any optimizer's step begins."""

    device: torch.device
    _steps: list[dict[str, Any]] = field(default_factory=list, init=False)  # mark by name, in order

    def start(self) -> None:
        """A step begins; it lasts until the mark of its optimizer."""
        self._hook = register_optimizer_step_pre_hook(lambda *_: self.mark("backward"))
        self._steps.append({"start": self._now()})

    def mark(self, name: str) -> None:
        """A phase ends; of several marks of one name in a step the first counts."""
        if self._steps and name not in self._steps[-1]:
            self._steps[-1][name] = self._now()
            if name == PHASES[-1]:
                self._hook.remove()

    def read(self) -> list[dict[str, float]]:
        """Wait for the device; seconds by phase of every step since the last call."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        steps, self._steps = self._steps, []
        return [{name: self._between(marks, name) for name in PHASES} for marks in steps]

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, marks: dict[str, Any], name: str) -> float:
        order = list(marks)
        before, after = marks[order[order.index(name) - 1]], marks[name]
        return before.elapsed_time(after) / 1000 if self.device.type == "cuda" else after - before


def peak_bytes(action: Callable[[], object], device: torch.device) -> int:
    """The most memory that tensors take during `action` beyond what they took before it.

    On the CPU it is the sum of the allocator's events, which torch.profiler records; they miss memory that another
    thread frees.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with warnings.catch_warnings(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        warnings.filterwarnings("ignore", module="torch.profiler")
        action()
    assert recorded.profiler is not None
    results = recorded.profiler.kineto_results
    assert results is not None
    events: list[Any] = results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    return int(np.cumsum([change for _, change in sorted(changes, key=lambda pair: pair[0])]).max(initial=0))


def resident_bytes(module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of parameters, buffers and optimizer state, which stay between steps."""
    state = [value for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)]
    tensors = [*module.parameters(), *module.buffers(), *state]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def release(device: torch.device) -> None:
    """Give back what nobody refers to any more, compiled code included."""
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    """As the driver calls it, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def report_rows(rows: Iterable[Any], show: Callable[[Any], str], *, as_json: bool) -> None:
    """Write each row as it comes, as text or as a JSON list: where that is cut off, only `]` is missing."""
    count = 0
    for count, row in enumerate(rows, start=1):
        sys.stdout.write(("[" if count == 1 else ",") + json.dumps(row) + "\n" if as_json else show(row))
        sys.stdout.flush()
    if as_json:
        sys.stdout.write("]\n" if count else "[]\n")
