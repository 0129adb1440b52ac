"""Cost of a checkpoint: the time in which training is blocked by synchronous and asynchronous saves."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from videomae.command import guarded
from videomae.core.distributed import World
from videomae.engine.factory import build_engine
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import Engine, EngineConfig, EnginePlan
from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.run.checkpoint.config import CheckpointConfig
from videomae.run.checkpoint.saver import Saver, SaveReport
from videomae.run.checkpoint.store import CheckpointStore

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}  # dim, depth, heads


def measure(folder: Path, *, size: str, saves: int) -> dict[str, Any]:
    """Save an encoder of `size` with its optimizer state below `folder` while it trains, `saves` times of each kind.

    Synchronous and asynchronous saves alternate. Seconds are medians; `blocked_fraction` is the blocked time of
    asynchronous over that of synchronous saves; `step_slowdown` is the factor on a step's time during a background
    write.
    """
    world = World(0, 1, 0, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    engine, step = _train(size, world)
    scratch = Path(tempfile.mkdtemp(prefix="checkpoint-bench-", dir=folder))
    reports: dict[bool, list[SaveReport]] = {False: [], True: []}
    savers = {
        asynchronous: Saver(
            CheckpointStore(scratch / str(asynchronous), world=world, keep=1, background_removal=asynchronous),
            CheckpointConfig(asynchronous=asynchronous, failures=0),
            every=1,
            snapshot=engine.snapshot,
            report=reports[asynchronous].append,
        )
        for asynchronous in (False, True)
    }
    idle, during, number = [], [], 0
    try:
        for number in range(1, saves + 2):  # the first of each kind warms up
            idle.append(step())
            savers[False].save({"step": number})
            idle.append(step())
            savers[True].save({"step": number})
            while savers[True].pending:
                during.append(step())
                savers[True].poll(busy=savers[True].busy, failed=savers[True].failed)
        savers[True].save({"step": number}, must=True)  # waits for the removal of old checkpoints
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    described = {"size": size, "bytes": reports[False][-1].bytes, "saves": saves, "device": str(world.device)}
    return {**described, **_summary(reports, idle=idle, during=during)}


def _summary(reports: dict[bool, list[SaveReport]], *, idle: list[float], during: list[float]) -> dict[str, float]:
    """Medians of saves by kind (asynchronous or not), and of steps without and during a write."""
    synchronous, asynchronous = (
        statistics.median(report.blocked_seconds for report in reports[kind][1:]) for kind in (False, True)
    )
    step = statistics.median(idle)
    return {
        "synchronous_seconds": round(synchronous, 4),
        "asynchronous_blocked_seconds": round(asynchronous, 4),
        "asynchronous_seconds": round(statistics.median(report.seconds for report in reports[True][1:]), 4),
        "blocked_fraction": round(asynchronous / synchronous, 4),
        "step_seconds": round(step, 4),
        "step_slowdown": round(statistics.median(during) / step, 3),
    }


def _train(size: str, world: World) -> tuple[Engine, Callable[[], float]]:
    """Return an engine and a function that runs one step and returns its seconds."""
    dim, depth, heads = SIZES[size]
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=dim, depth=depth, heads=heads)
    model = VideoEncoder(encoder)
    plan = EnginePlan(EngineConfig(kind="local"), OptimizerConfig(), world)
    engine = build_engine(model, parameter_groups(model, weight_decay=0.05), plan)
    video_BCTHW = torch.rand(1, 3, encoder.frames, encoder.size, encoder.size, device=world.device)
    visible_BV = torch.arange(0, encoder.num_patches, 10, device=world.device)[None]

    def step() -> float:
        began = time.perf_counter()
        engine.train_step([visible_BV], lambda module, visible: module(video_BCTHW, visible).square().mean(), lr=1e-4)
        return time.perf_counter() - began

    step()
    return engine, step


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to be measured (here)")
    parser.add_argument("--size", choices=tuple(SIZES), default="small", help="of the encoder")
    parser.add_argument("--saves", type=int, default=5, help="of each kind")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args(arguments)
    return guarded(lambda: _print(measure(given.folder, size=given.size, saves=given.saves), as_json=given.json))


def _print(result: dict[str, Any], *, as_json: bool) -> None:
    text = (
        f"{result['bytes'] / 1e6:.0f} MB, {result['saves']} saves of each kind on {result['device']}\n"
        f"synchronous:  {result['synchronous_seconds']:.3f} s without a step\n"
        f"asynchronous: {result['asynchronous_blocked_seconds']:.3f} s without a step "
        f"({result['blocked_fraction']:.1%}), written {result['asynchronous_seconds']:.1f} s after its beginning; "
        f"steps meanwhile take {result['step_slowdown']:.2f} times as long"
    )
    print(json.dumps(result) if as_json else text)


if __name__ == "__main__":
    sys.exit(main())
