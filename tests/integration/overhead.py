"""What health and metrics cost: `python -m tests.integration.overhead [--blocks N] [--json]`.

The same model takes the same steps twice, by turns: a block of ten bare, and a block of ten inside the frame of a run,
which votes on stops, guards the gradient, feeds the watchdog, looks for stragglers, measures, and logs once a block.

overhead    median over the blocks of the ratio of the processor's times (all threads), less one
between     median over the blocks of the time between the framed engine's updates, as a share of that within them

A step here takes a fraction of a second; in a real run, where it takes one, the share is smaller still. Both are ratios
of times taken side by side, so a busy machine changes them little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain.autoencoder import DecoderConfig, MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.config import PretrainConfig, PretrainDataConfig
from pretrain.masking import MaskConfig
from pretrain.objective import Objective
from tests.tiny import tiny_batch, world_of_one
from videomae.checkpoint import CheckpointConfig
from videomae.encoder import EncoderConfig
from videomae.engine.protocol import EngineConfig
from videomae.metrics import MetricsConfig
from videomae.schedule import ScheduleConfig
from videomae.stage import open_run, plan, start_engine
from videomae.training import Training

BLOCK = 10  # steps; a line is logged once in each
ENCODER = EncoderConfig(frames=8, size=64, tubelet=2, patch=8, dim=192, depth=6, heads=3)


def config_of(run: Path, blocks: int) -> PretrainConfig:
    return PretrainConfig(
        run=str(run),
        batch=8,
        data=PretrainDataConfig(shards="none"),
        encoder=ENCODER,
        decoder=DecoderConfig(dim=96, depth=2, heads=3),
        mask=MaskConfig(ratio=0.75),
        engine=EngineConfig(kind="local"),
        schedule=ScheduleConfig(duration=f"{BLOCK * (blocks + 2)} steps", warmup="1 steps"),
        checkpoint=CheckpointConfig(every="100000 steps"),
        metrics=MetricsConfig(every=BLOCK, wandb="disabled"),
    )


@dataclass(frozen=True)
class Block:
    """Seconds of the processor bare and framed, and seconds by the clock within and between the framed updates."""

    bare: float
    framed: float
    within: float
    between: float


def measure(run: Path, blocks: int) -> list[Block]:
    """Every block's times."""
    config, world = config_of(run, blocks), world_of_one()
    timetable = plan(config, steps_per_epoch=100)
    batches = [tiny_batch(seed=seed, samples=8, encoder=ENCODER) for seed in range(4)]
    loss_of = Objective(config.objective, encoder=ENCODER, device=world.device)
    bare, framed = (start_engine(MaskedAutoencoder(ENCODER, config.decoder), config, world) for _ in range(2))

    def stream(start: int) -> Iterator[list[PretrainBatch]]:
        while True:
            yield [batches[start % len(batches)]]
            start += 1

    def block_bare() -> None:
        taken = stream(0)
        for step in range(BLOCK):
            bare.update(next(taken), loss_of, rate=timetable.rate(step))

    with open_run("Overhead", config, world, inputs=[]) as attempt:
        training = Training(attempt, config, engine=framed, timetable=timetable)
        steps, timed = training.steps(stream), training.timed(loss_of)

        def block_framed() -> float:
            within = 0.0
            for _ in range(BLOCK):
                step, micro_batches = next(steps)
                began = time.perf_counter()
                update = framed.update(micro_batches, timed, rate=timetable.rate(step), ceiling=training.ceiling)
                within += time.perf_counter() - began
                training.record(step, update)
            return within

        def both() -> Block:
            started = time.process_time()
            block_bare()
            halfway, began = time.process_time(), time.perf_counter()
            within = block_framed()
            between = time.perf_counter() - began - within
            return Block(halfway - started, time.process_time() - halfway, within, between)

        both()
        return [both() for _ in range(blocks)]


def main() -> int:
    parser = argparse.ArgumentParser(description="What health and metrics cost.")
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        blocks = measure(Path(folder) / "run", given.blocks)
    result = {
        "overhead": round(statistics.median(block.framed / block.bare for block in blocks) - 1, 4),
        "between": round(statistics.median(block.between / block.within for block in blocks), 4),
        "step_seconds": round(statistics.median(block.within for block in blocks) / BLOCK, 4),
        "blocks": given.blocks,
    }
    if given.json:
        print(json.dumps(result))
    else:
        print(
            f"health and metrics cost {result['overhead']:.2%} of a step of {result['step_seconds']:.3f} s; "
            f"{result['between']:.2%} of it pass between the updates"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
