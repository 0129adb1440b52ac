"""Engine overhead over DistributedDataParallel: `python -m benchmarks.engine_overhead [--processes N] [--json]`.

One process group holds the same encoder three times: in PyTorch's DistributedDataParallel with fused AdamW and
clipping, and in our DeepSpeed engine at stages 0 and 1. They take turns at steps in a rotating order, so that other
load on the machine affects all equally; the medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from videomae.command import finish, guarded
from videomae.core.distributed import World, distributed_context
from videomae.engine.factory import build_engine
from videomae.engine.mixed_precision import MixedPrecision
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import EngineConfig, EnginePlan
from videomae.models.encoder import SIZES, EncoderConfig, VideoEncoder

CLIP, LR, WARMUP = 1.0, 1e-4, 3
Step = Callable[[Tensor], object]


@dataclass(frozen=True)
class Workload:
    """The measured model, batch and precision."""

    size: str
    batch: int  # clips per step and process
    steps: int
    precision: str

    def encoder(self) -> VideoEncoder:
        """Return the encoder, the same on every rank and for every engine."""
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"frames": 8, "size": 64, **SIZES[self.size]}
        return VideoEncoder(EncoderConfig(**sizes))

    def clips(self, world: World) -> Tensor:
        """Return this rank's video_BCTHW."""
        generator = torch.Generator().manual_seed(world.rank)
        return torch.randn(self.batch, 3, 8, 64, 64, generator=generator).to(world.device)


def loss_of(module: nn.Module, video_BCTHW: Tensor) -> Tensor:
    return module(video_BCTHW).float().square().mean()


def make_ddp_step(workload: Workload, world: World) -> Step:
    """Return a step of DistributedDataParallel."""
    module = workload.encoder().to(world.device)
    parallel = nn.parallel.DistributedDataParallel(
        module, device_ids=[world.device] if world.device.type == "cuda" else None
    )
    optimizer = torch.optim.AdamW(parameter_groups(module, weight_decay=0.05), lr=LR, fused=True)
    precision = MixedPrecision(workload.precision, world.device)

    def step(video_BCTHW: Tensor) -> None:
        with precision.autocast():
            loss = loss_of(parallel, video_BCTHW)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_engine_step(workload: Workload, world: World, *, stage: int) -> Step:
    """Return a step of the DeepSpeed engine."""
    settings: dict[str, Any] = {"zero_stage": stage, "precision": workload.precision}
    plan = EnginePlan(EngineConfig(kind="deepspeed", **settings), OptimizerConfig(clip=CLIP), world)
    module = workload.encoder()
    engine = build_engine(module, parameter_groups(module, weight_decay=0.05), plan)
    return lambda video_BCTHW: engine.train_step([video_BCTHW], loss_of, lr=LR)


def measure(workload: Workload, world: World) -> dict[str, list[float]]:
    """Return the seconds of each step by engine, on this rank."""
    steps = {
        "ddp": make_ddp_step(workload, world),
        "stage 0": make_engine_step(workload, world, stage=0),
        "stage 1": make_engine_step(workload, world, stage=1),
    }
    video_BCTHW, names = workload.clips(world), list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(WARMUP + workload.steps):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            world.barrier()
            began = time.perf_counter()
            steps[name](video_BCTHW)
            if world.device.type == "cuda":
                torch.cuda.synchronize(world.device)
            if number >= WARMUP:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def summary(workload: Workload, world: World, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return the medians, and their ratios to DistributedDataParallel's."""
    medians = {name: median(values) for name, values in seconds.items()}
    return {
        **asdict(workload),
        "processes": world.size,
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "median_seconds": {name: round(value, 5) for name, value in medians.items()},
        "ratio": {name: round(value / medians["ddp"], 4) for name, value in medians.items()},
    }


def describe(result: dict[str, Any]) -> str:
    lines = [
        f"{result['processes']} processes on {result['device']}, encoder of size {result['size']}, "
        f"{result['precision']}, {result['batch']} clips each, medians of {result['steps']} steps"
    ]
    for name, seconds in result["median_seconds"].items():
        lines.append(f"  {name:<8} {1000 * seconds:9.1f} ms   {result['ratio'][name]:.3f} of DDP")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine_overhead", description="The engine against plain DDP."
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--batch", type=int, default=8, help="clips a step on each process")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, alone")
    given = parser.parse_args(arguments)
    if "RANK" in os.environ:
        return finish(guarded(lambda: _measure(given)))
    return _launch(given.processes, sys.argv[1:] if arguments is None else arguments)


def _launch(processes: int, arguments: Sequence[str]) -> int:
    """Run this command in `processes` processes; show their stderr if they fail."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, "-m", *launcher, "-m", "benchmarks.engine_overhead", *arguments]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": threads})
    sys.stdout.write(done.stdout)
    if done.returncode:
        sys.stderr.write(done.stderr)
    return done.returncode


def _measure(given: argparse.Namespace) -> None:
    workload = Workload(given.size, given.batch, given.steps, given.precision)
    with distributed_context(os.environ) as world:
        result = summary(workload, world, measure(workload, world))
        if world.is_main:
            sys.stdout.write(json.dumps(result) + "\n" if given.json else describe(result))


if __name__ == "__main__":
    sys.exit(main())
