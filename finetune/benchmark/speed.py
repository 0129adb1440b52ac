"""Measure the forward pass of a trained row: latency, throughput and memory, under the row's own precision.

On a GPU the compiled model is measured too, and the faster of the two counts. The figures stand in `speed.json` of the
run and are measured again on another device.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from videomae.core.files import write_json
from videomae.core.progress import logger

FILE = "speed.json"
_BATCH = 8  # clips a forward pass, for the throughput
_PASSES = 5  # of which the median counts, after one to warm up


@dataclass(frozen=True)
class Speed:
    """Median time of one clip, clips a second in batches of 8, and the peak memory of such a batch on a GPU."""

    device: str
    precision: str
    latency_ms: float
    clips_per_second: float
    memory_gb: float | None
    compiled: bool = False


def read_or_measure(
    run: Path, module: nn.Module, shape: tuple[int, ...], *, device: torch.device, precision: str
) -> Speed:
    """Return the figures in the run's speed.json, measured first if they are missing or of another device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    file = run / FILE
    if file.is_file():
        found = json.loads(file.read_text())
        if found.get("device") == name and found.get("precision") == precision:
            return Speed(**found)
    speed = measure(module, shape, device=device, precision=precision, name=name)
    write_json(file, asdict(speed))
    return speed


@torch.no_grad()
def measure(module: nn.Module, shape: tuple[int, ...], *, device: torch.device, precision: str, name: str) -> Speed:
    """Measure `module` on clips of `shape` (C, T, H, W)."""
    module = module.to(device).eval()
    one, many = (torch.zeros(count, *shape, device=device) for count in (1, _BATCH))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        latency, batch = _seconds(module, one), _seconds(module, many)
        memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
        compiled = _compiled_seconds(module, one, many) if device.type == "cuda" else None
    faster = compiled is not None and compiled[1] < batch
    if compiled is not None and faster:
        latency, batch = min(latency, compiled[0]), compiled[1]
    return Speed(name, precision, round(1000 * latency, 3), round(_BATCH / batch, 2), memory, faster)


def _compiled_seconds(module: nn.Module, *videos: torch.Tensor) -> list[float] | None:
    """The seconds of the compiled module for each batch; None if it cannot be compiled."""
    try:
        compiled = torch.compile(module)
        return [_seconds(compiled, video_BCTHW) for video_BCTHW in videos]
    except Exception as error:  # compilers raise exceptions of many types, and the rows are trained already
        logger.info("not compiled: %s", str(error).splitlines()[0] if str(error) else type(error).__name__)
        return None


def _seconds(module: Callable[[torch.Tensor], object], video_BCTHW: torch.Tensor) -> float:
    times = []
    for _ in range(_PASSES + 1):
        start = time.perf_counter()
        module(video_BCTHW)
        if video_BCTHW.is_cuda:
            torch.cuda.synchronize(video_BCTHW.device)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[_PASSES // 2]
