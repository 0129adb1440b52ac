"""Measure the overhead of metrics and health checks: `python -m benchmarks.metrics_overhead`, also under torchrun.

One engine trains a small pretraining model on batches in memory. Bare steps (the engine alone) alternate with full
steps (timing, metrics, log, guard, watchdog, status). A window holds some steps of each kind. The result is the median
over windows of the ratio of their CPU times; with `--wall`, of their wall times, on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.batch import PretrainBatch, PretrainItem, collate
from pretrain.config import PretrainConfig
from pretrain.cost import workload
from pretrain.masking import draw_mask
from pretrain.objective import Objective
from pretrain.train import initial_model
from videomae.core.config import parse
from videomae.core.distributed import World, distributed_context
from videomae.core.progress import log_to
from videomae.run.session import open_run
from videomae.trainer import Trainer

STEPS = 10  # of each kind in a window: one log line at the default interval
SMALL: dict[str, Any] = {
    "stage": "pretrain",
    "batch": 8,
    "data": {"shards": "in memory"},
    "encoder": {"frames": 8, "size": 64, "patch": 8, "dim": 96, "depth": 4, "heads": 3},
    "decoder": {"dim": 48, "depth": 1, "heads": 3},
    "mask": {"ratio": 0.75},
    "optimizer": {"lr": 1e-3},
    "schedule": {"duration": "1000000 steps", "warmup": "10 steps"},
    "checkpoint": {"every": "1000000 steps"},
}


def batch_of(config: PretrainConfig, seed: int, clips: int) -> PretrainBatch:
    """Random pixels and masks."""
    rng = np.random.default_rng(seed)
    shape = (config.encoder.frames, 3, config.encoder.size, config.encoder.size)
    pixels = [torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(clips)]
    return collate([PretrainItem(frames, draw_mask(config.mask, config.encoder, rng)) for frames in pixels])


def measure(world: World, run: Path, *, windows: int, wall: bool, settings: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds per step of both kinds, and the overhead of the full steps."""
    kind = "local" if world.size == 1 else "deepspeed"
    values = {**SMALL, "run": str(run), "engine": {"kind": kind}, "metrics": settings}
    config = parse(PretrainConfig, values, source="benchmarks.metrics_overhead")
    batches = [[batch_of(config, seed, config.batch // world.size)] for seed in range(4)]
    clock = time.perf_counter if wall else time.process_time
    with open_run("Overhead", config, world, inputs=[]) as session:
        log_to(None, console_too=False)
        schedule = config.resolve_schedule(steps_per_epoch=1000)
        work = workload(config.encoder, config.decoder, config.mask)
        trainer = Trainer(session, config, initial_model(config), schedule=schedule, workload=work)
        objective = Objective(config.objective, encoder=config.encoder, device=world.device)
        steps = trainer.steps(lambda start: itertools.cycle(batches))

        def full() -> None:
            step, micro_batches = next(steps)
            objective.measuring = trainer.should_log(step)
            result = trainer.train_step(step, micro_batches, objective)
            trainer.record(step, result, objective.measured())

        def bare() -> None:
            float(trainer.engine.train_step(next(batches_again), objective, lr=1e-4).loss)

        batches_again = itertools.cycle(batches)
        return summary(list(timed_windows(full, bare, windows, clock)))


def timed_windows(
    full: Callable[[], None], bare: Callable[[], None], windows: int, clock: Callable[[], float]
) -> Iterator[tuple[float, float]]:
    """Seconds per step of both kinds in each window; the order alternates, and the first window warms up."""
    for number in range(windows + 1):
        seconds = {full: 0.0, bare: 0.0}
        for turn in range(STEPS):
            for step in (full, bare) if turn % 2 else (bare, full):
                start = clock()
                step()
                seconds[step] += clock() - start
        if number:
            yield seconds[full] / STEPS, seconds[bare] / STEPS


def summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians, and the quartiles of the overhead in percent."""
    percent = [100 * (full / bare - 1) for full, bare in pairs]
    low, middle, high = statistics.quantiles(percent, n=4)
    return {
        "full_ms": 1e3 * statistics.median(full for full, _ in pairs),
        "bare_ms": 1e3 * statistics.median(bare for _, bare in pairs),
        "overhead_percent": middle,
        "quartiles_percent": [low, high],
        "windows": len(pairs),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metrics_overhead", description="Measure the overhead of metrics and health checks."
    )
    parser.add_argument("--windows", type=int, default=40, help="number of windows")
    parser.add_argument("--every", type=int, default=10, help="steps between log lines")
    parser.add_argument("--wandb", default="disabled", help="disabled, or offline with its process running")
    parser.add_argument("--wall", action="store_true", help="wall time instead of CPU time")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"every": given.every, "wandb": given.wandb, "peak_tflops": 1.0}
    with tempfile.TemporaryDirectory() as folder, distributed_context(os.environ) as world:
        run = Path(world.broadcast_object(folder)) / "run"
        result = measure(world, run, windows=given.windows, wall=given.wall, settings=settings)
        if world.is_main:
            text = "{full_ms:.2f} ms full, {bare_ms:.2f} ms bare: {overhead_percent:+.2f} %".format(**result)
            print(json.dumps(result) if given.json else text)
        world.barrier()
    return 0


if __name__ == "__main__":
    sys.exit(main())
