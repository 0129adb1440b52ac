"""What both parts of `benchmarks.science` need: sizes, engines, a learning rate that follows the clock, results."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pretrain.autoencoder import DecoderConfig
from videomae.core.distributed import World
from videomae.engine.factory import build_engine
from videomae.engine.optimizer import OptimizerConfig, parameter_groups
from videomae.engine.protocol import Engine, EngineConfig, EnginePlan
from videomae.engine.schedule import Schedule, ScheduleConfig
from videomae.models.encoder import EncoderConfig

COMPILED_STEPS = 3  # before the clock of a training starts


@dataclass(frozen=True)
class Size:
    """Model, memory and batches."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    batch: int
    finetune_batch: int
    clips: int  # synthetic clips in memory
    tests: int  # labelled motions of each class to test probes on
    videos: int | None  # of each class and split; None: all
    labels: int  # of each class, beside all
    steps: tuple[int, int]  # fewest and most of a fine-tuning
    workers: int


FULL = Size(
    encoder=EncoderConfig(frames=16, size=112, tubelet=2, patch=8, dim=384, depth=12, heads=6, positions="sincos_3d"),
    decoder=DecoderConfig(dim=192, depth=2, heads=3),
    batch=256,
    finetune_batch=32,
    clips=12_000,  # 7 GB, at 224 pixels 29 GB
    tests=50,
    videos=None,
    labels=10,
    steps=(60, 600),
    workers=max(1, min(14, (os.cpu_count() or 1) - 2)),
)
TINY = Size(
    encoder=EncoderConfig(frames=8, size=32, tubelet=2, patch=8, dim=48, depth=2, heads=3, positions="sincos_3d"),
    decoder=DecoderConfig(dim=24, depth=1, heads=3),
    batch=16,
    finetune_batch=8,
    clips=64,
    tests=4,
    videos=12,
    labels=2,
    steps=(4, 8),
    workers=1,
)


def make_engine(model: nn.Module, config: OptimizerConfig, world: World, **groups: Any) -> Engine:
    """Return the local engine; on CUDA in bfloat16 with compiled blocks."""
    cuda = world.device.type == "cuda"
    blocks = any("blocks." in name for name, _ in model.named_parameters())
    engine = EngineConfig(kind="local", precision="bf16" if cuda else "fp32", compile=cuda and blocks)
    found = parameter_groups(model, weight_decay=config.weight_decay, kind=config.kind, **groups)
    return build_engine(model, found, EnginePlan(engine, config, world))


def timed(seconds: float, *, until: float, decay: float) -> Iterator[float]:
    """Yield the factor on the peak learning rate at every step for `seconds`, and not beyond the time `until`.

    The clock starts after the steps in which blocks are compiled; they and one more are always taken.
    """
    began, end, steps = 0.0, 1.0, 0
    while steps <= COMPILED_STEPS or time.time() < end:
        if steps == COMPILED_STEPS:
            began = time.time()
            end = max(began + 1e-6, min(began + seconds, until))
        done = 0.0 if steps <= COMPILED_STEPS else (time.time() - began) / (end - began)
        yield factor(done, decay=decay)
        steps += 1


def factor(done: float, *, decay: float) -> float:
    """The factor on the peak learning rate: a warm-up of 3 %, then constant until the last `decay`."""
    place, length = int(1000 * min(1.0, done)), int(1000 * decay)
    config = ScheduleConfig(kind="wsd", start_factor=0.03)
    return Schedule(config, 1.0, steps_per_epoch=1, total=1000, warmup=30, decay=length).lr(place)


def write_result(out: Path, part: str, values: dict[str, Any]) -> None:
    """Append a result to OUT/PART.jsonl, and show it."""
    line = json.dumps(values)
    with (out / f"{part}.jsonl").open("a") as file:
        file.write(line + "\n")
    sys.stdout.write(f"{part}: {line}\n")
