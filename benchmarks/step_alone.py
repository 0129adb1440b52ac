"""Our step alone: the largest batch of a device with the speed there, and where the time goes.

Memory is measured at two batches and grows linearly with them. The batch found is then trained with; where memory does
not suffice after all, a smaller one is tried. A profile is torch.profiler's table of operators, and their shares.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measuring import Clock, device_name, peak_bytes, release
from benchmarks.step_forms import VARIANTS, Form, build, draw_clips, subject, variant_of
from pretrain.config import PretrainConfig
from pretrain.cost import workload
from pretrain.train import initial_model
from videomae.run.metrics.peak import peak_of

PROBES = (2, 4)  # clips
USABLE = 0.9  # of the memory that is free
ROUND, STEPS = 8, 5
PROFILED, ROWS = 3, 30  # steps, operators


def largest_batch(
    name: str, *, device: torch.device, forms: tuple[str, ...], most: int, precision: str, compiled: bool
) -> dict[str, Any]:
    """The largest batch of each form alone, a multiple of 8 up to `most`, and clips/s and MFU with it."""
    config = subject(name, precision=precision, compiled=compiled)
    flops, peak = workload(config.encoder, config.decoder, config.mask).flops, peak_of(device, precision=precision)
    row: dict[str, Any] = {"device": device_name(device), "model": name, "precision": precision, "compiled": compiled}
    found: dict[str, dict[str, float | None]] = {}
    for form in forms:
        release(device)
        batch, seconds = _largest(form, config, device, most)
        mfu = flops * batch / seconds / peak.tflops / 1e12 if peak.tflops and form not in VARIANTS else None
        found[form] = {"batch": batch, "clips_per_second": batch / seconds, "mfu": mfu}
    ours = found["ours"]
    ratios = {f"ratio_{form}": _over(ours, found[form]) for form in forms if form not in ("ours", *VARIANTS)}
    return {**row, **ours, **ratios, "forms": found}


def _over(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    return ours["clips_per_second"] / theirs["clips_per_second"]


def _largest(name: str, config: PretrainConfig, device: torch.device, most: int) -> tuple[int, float]:
    """(clips, seconds of a step with them)."""
    changed = variant_of(config, name) if name in VARIANTS else config
    state, (few, many) = initial_model(config).state_dict(), PROBES
    low, high = _peaks(name, changed, state, device)
    each = max(1, (high - low) / (many - few))
    batch = int((USABLE * _free_bytes(device) - (low - few * each)) / each)
    batch = max(ROUND, min(batch, most) // ROUND * ROUND)
    while True:
        try:
            return batch, _seconds(build(name, config, state, device), changed, batch, device)
        except torch.cuda.OutOfMemoryError:
            if batch <= ROUND:
                raise
        release(device)
        batch = max(ROUND, int(0.9 * batch) // ROUND * ROUND)


def _peaks(name: str, config: PretrainConfig, state: Mapping[str, Tensor], device: torch.device) -> list[int]:
    """Bytes of a step at the batches of `PROBES`, with weights, gradients and moments; not compiled."""
    eager = replace(config, engine=replace(config.engine, compile=False))
    found = []
    for clips in PROBES:
        clock = Clock(device)

        def train(clips: int = clips, clock: Clock = clock) -> None:
            form = build(name, eager, state, device)
            batch = form.take(draw_clips(eager, clips))
            for _ in range(2):
                form.step(batch, clock)

        found.append(peak_bytes(train, device))
    return found


def _seconds(form: Form, config: PretrainConfig, clips: int, device: torch.device) -> float:
    batch, clock = form.take(draw_clips(config, clips)), Clock(device)
    form.step(batch, clock)  # compiles
    form.step(batch, clock)
    clock.read()
    for _ in range(STEPS):
        form.step(batch, clock)
    return sum(sum(step.values()) for step in clock.read()) / STEPS


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def profile_step(
    name: str, *, device: torch.device, batch: int | None, precision: str, compiled: bool
) -> dict[str, Any]:
    """Profile some steps of ours after as many to warm up; operators by their own time on the device."""
    config = subject(name, precision=precision, compiled=compiled)
    release(device)
    form, clock = build("ours", config, initial_model(config).state_dict(), device), Clock(device)
    clips = form.take(draw_clips(config, batch or config.batch))
    for _ in range(PROFILED):
        form.step(clips, clock)
    clock = Clock(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as recorded:
        for _ in range(PROFILED):
            form.step(clips, clock)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    averages: Any = recorded.key_averages()
    rows = sorted(averages, key=lambda row: getattr(row, key), reverse=True)
    total = sum(getattr(row, key) for row in rows) or 1
    return {
        "device": device_name(device),
        "model": name,
        "precision": precision,
        "compiled": compiled,
        "batch": batch or config.batch,
        "operators": [
            {"name": row.key, "share": getattr(row, key) / total, "calls": row.count / PROFILED} for row in rows[:ROWS]
        ],
        "table": averages.table(sort_by=key, row_limit=ROWS, max_name_column_width=60),
    }
