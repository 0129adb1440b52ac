"""What the engine costs: `python -m benchmarks.step --zero 0 1 2 3 --processes 2 [--sizes small] [--json]`.

One process group holds the same autoencoder several times, and the forms take turns at steps in a rotating order:

- alone: our local engine in every process by itself, all at the same time, without communication. N processes at its
  speed are N times one process, so what a form takes beyond it is communication and engine.
- ddp: PyTorch's DistributedDataParallel with fused AdamW and the norm of the gradients.
- zero N: our DeepSpeed engine at stage N.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import device_name
from benchmarks.step_forms import DECAY, LR, draw_clips, subject
from pretrain.batch import PretrainBatch
from pretrain.config import PretrainConfig
from pretrain.objective import Objective
from pretrain.train import initial_model
from videomae.core.distributed import World, distributed_context, init_distributed
from videomae.engine.factory import build_engine
from videomae.engine.local import grad_norm
from videomae.engine.mixed_precision import MixedPrecision
from videomae.engine.optimizer import parameter_groups
from videomae.engine.protocol import EngineConfig, EnginePlan

WARMUP = 2
Step = Callable[[PretrainBatch], object]


def run(given: argparse.Namespace) -> None:
    """Measure on this rank as the options of `benchmarks.step` say; rank 0 prints."""
    with distributed_context(os.environ) as world:
        init_distributed(world)  # in a world of one, too
        rows = [
            _measure(name, world, precision=precision, stages=given.zero, batch=given.batch, rounds=given.steps)
            for name in given.sizes
            for precision in given.precision
        ]
        if world.is_main:
            sys.stdout.write(json.dumps(rows) + "\n" if given.json else "".join(map(describe, rows)))


def launch(processes: int, words: list[str]) -> int:
    """Run this benchmark in so many processes; show their stderr if they fail."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, "-m", *launcher, "-m", "benchmarks.step", *words]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": threads})
    sys.stdout.write(done.stdout)
    if done.returncode:
        sys.stderr.write(done.stderr)
    return done.returncode


def _measure(
    name: str, world: World, *, precision: str, stages: list[int], batch: int | None, rounds: int
) -> dict[str, Any]:
    config = subject(name, precision=precision, compiled=False)
    steps = _steps(config, world, stages)
    clips = draw_clips(config, batch or config.batch)
    names, seconds = list(steps), {name: list[float]() for name in steps}
    for number in range(WARMUP + rounds):
        turn = number % len(names)
        for form in names[turn:] + names[:turn]:
            spent = _timed(steps[form], clips, world)
            if number >= WARMUP:
                seconds[form].append(spent)
    return {
        "device": device_name(world.device),
        "model": name,
        "precision": precision,
        "processes": world.size,
        "batch": batch or config.batch,
        "rounds": rounds,
        "seconds": {form: median(values) for form, values in seconds.items()},
        "ratio": {
            form: median(one / alone for one, alone in zip(values, seconds["alone"], strict=True))
            for form, values in seconds.items()
        },
    }


def _timed(step: Step, clips: PretrainBatch, world: World) -> float:
    """Seconds until the slowest rank has finished the step."""
    world.barrier()
    began = time.perf_counter()
    step(clips)
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return float(world.all_gather_scalar(torch.tensor(time.perf_counter() - began, device=world.device)).max())


def _steps(config: PretrainConfig, world: World, stages: list[int]) -> dict[str, Step]:
    single = World(rank=0, size=1, local_rank=world.local_rank, device=world.device)
    found = {"alone": _engine_step(config, config.engine, single), "ddp": _ddp_step(config, world)}
    for stage in stages:
        engine = replace(config.engine, kind="deepspeed", zero_stage=stage)
        found[f"zero {stage}"] = _engine_step(config, engine, world)
    return found


def _engine_step(config: PretrainConfig, settings: EngineConfig, world: World) -> Step:
    module = initial_model(config)
    plan = EnginePlan(settings, config.optimizer, world)
    engine = build_engine(module, parameter_groups(module, weight_decay=DECAY), plan)
    objective = Objective(config.objective, encoder=config.encoder, device=world.device)
    return lambda clips: engine.train_step([clips], objective, lr=LR)


def _ddp_step(config: PretrainConfig, world: World) -> Step:
    module = initial_model(config).to(world.device)
    parallel = nn.parallel.DistributedDataParallel(
        module, device_ids=[world.device] if world.device.type == "cuda" else None
    )
    optimizer = torch.optim.AdamW(parameter_groups(module, weight_decay=DECAY), lr=LR, fused=True)
    precision = MixedPrecision(config.engine.precision, world.device)
    objective = Objective(config.objective, encoder=config.encoder, device=world.device)

    def step(clips: PretrainBatch) -> Tensor:
        with precision.autocast():
            loss = objective(parallel, clips)
        loss.backward()
        grad_norm(module)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def describe(row: dict[str, Any]) -> str:
    """One row as text."""
    title = (
        f"{row['processes']} processes on {row['device']}, {row['model']}, {row['precision']}, "
        f"{row['batch']} clips each, medians of {row['rounds']} steps"
    )
    lines = [
        f"  {form:<8}{1000 * seconds:9.1f} ms   {row['ratio'][form]:.3f} of one process alone"
        for form, seconds in row["seconds"].items()
    ]
    return "\n".join([title, *lines]) + "\n"
