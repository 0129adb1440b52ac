"""Where the time of our step goes: torch.profiler's table of operators, and each operator's share."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measuring import Clock, device_name, release
from benchmarks.step_forms import build, draw_clips, subject
from pretrain.train import initial_model

STEPS, ROWS = 3, 30


def profile_step(
    name: str, *, device: torch.device, batch: int | None, precision: str, compiled: bool
) -> dict[str, Any]:
    """Profile some steps of ours after as many to warm up; operators by their own time on the device."""
    config = subject(name, precision=precision, compiled=compiled)
    release(device)
    form, clock = build("ours", config, initial_model(config).state_dict(), device), Clock(device)
    clips = form.take(draw_clips(config, batch or config.batch))
    for _ in range(STEPS):
        form.step(clips, clock)
    clock = Clock(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as recorded:
        for _ in range(STEPS):
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
            {"name": row.key, "share": getattr(row, key) / total, "calls": row.count / STEPS} for row in rows[:ROWS]
        ],
        "table": averages.table(sort_by=key, row_limit=ROWS, max_name_column_width=60),
    }
