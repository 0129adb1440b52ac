"""Training and inference of every row of a benchmark: `python -m benchmarks.step_finetune [CONFIG] [--json]`.

Every model is built without pretrained weights, which do not change its speed, and trains on random clips with the
protocol's engine and objective. Inference is one forward pass of `evaluation.batch` clips as in the evaluation. Clips
are on the host at the start of each step; the figures are medians, and MFU is that of training.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.measuring import device_name, peak_bytes, release, report_rows
from finetune.benchmark.protocol import BenchmarkConfig
from finetune.config import FinetuneConfig
from finetune.models import build
from finetune.objective import Objective, workload
from finetune.stream import LabelledBatch
from videomae.command import guarded
from videomae.core.config import parse
from videomae.core.distributed import World
from videomae.core.errors import UserError
from videomae.data.transforms.augment import normalize
from videomae.engine.factory import build_engine
from videomae.engine.optimizer import parameter_groups
from videomae.engine.protocol import EnginePlan
from videomae.run.metrics.peak import peak_of

CONFIG = Path(__file__).parent.parent / "configs/benchmark/rwf2000.yaml"
CLASSES, WARMUP = 2, 3


def measure_row(title: str, config: FinetuneConfig, device: torch.device, *, steps: int) -> dict[str, Any]:
    """Clips/s of training and inference, MFU and memory of one row."""
    release(device)
    torch.manual_seed(0)
    module = build(config.model, CLASSES, initialise=False)
    work = workload(module, input=config.model.input, classes=CLASSES, lr_scale=lambda name: 1.0)
    world = World(rank=0, size=1, local_rank=0, device=device)
    groups = parameter_groups(module, weight_decay=config.optimizer.weight_decay)
    engine = build_engine(module, groups, EnginePlan(config.engine, config.optimizer, world))
    loss_of = Objective(config.mixup, input=config.model.input, classes=CLASSES, device=device)
    clips = _clips(config, config.batch, device)

    def train() -> None:
        engine.train_step([clips], loss_of, lr=1e-4)

    memory = peak_bytes(train, device)
    training = _seconds(train, device, steps)
    views = _clips(config, config.evaluation.batch, device)
    inference = _seconds(lambda: _infer(module.eval(), views, config, device), device, steps)
    peak = peak_of(device, precision=config.engine.precision).tflops
    speed = config.batch / training
    return {
        "device": device_name(device),
        "model": title,
        "precision": config.engine.precision,
        "compiled": config.engine.compile,
        "batch": config.batch,
        "training_clips_per_second": speed,
        "inference_batch": config.evaluation.batch,
        "inference_clips_per_second": config.evaluation.batch / inference,
        "step_bytes": memory,
        "mfu": speed * work.flops / peak / 1e12 if peak else None,
    }


def _clips(config: FinetuneConfig, count: int, device: torch.device) -> LabelledBatch:
    size, frames = config.model.input.size, config.model.input.frames
    video_BTHWC = torch.randint(0, 256, (count, frames, size, size, 3), dtype=torch.uint8)
    batch = LabelledBatch(video_BTHWC.permute(0, 4, 1, 2, 3), torch.arange(count) % CLASSES)
    return batch.pin_memory() if device.type == "cuda" else batch


@torch.no_grad()
def _infer(module: nn.Module, batch: LabelledBatch, config: FinetuneConfig, device: torch.device) -> Tensor:
    expected = config.model.input
    return module(normalize(batch.to(device).video_BCTHW, expected.mean, expected.std))


def _seconds(action: Callable[[], object], device: torch.device, steps: int) -> float:
    seconds = []
    for number in range(WARMUP + steps):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARMUP:
            seconds.append(time.perf_counter() - began)
    return median(seconds)


def describe(row: dict[str, Any]) -> str:
    """One row as text."""
    share = "" if row["mfu"] is None else f", MFU {row['mfu']:.1%}"
    return (
        f"{row['model']:<24} training {row['training_clips_per_second']:8.1f} clips/s{share}, inference "
        f"{row['inference_clips_per_second']:8.1f} clips/s, {row['step_bytes'] / 1e9:.2f} GB beyond weights\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_finetune", description="The rows of a benchmark.")
    parser.add_argument("config", type=Path, nargs="?", default=CONFIG)
    parser.add_argument("--batch", type=int, help="clips of training and of inference, instead of the protocol's")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="compile the blocks of models that have some")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, alone")
    given = parser.parse_args(arguments)
    return guarded(lambda: _run(given))


def read_benchmark(file: Path) -> BenchmarkConfig:
    """The benchmark without its pretrained encoder, whose weights do not matter for speed.

    Its size does: rows that would take it from the weights get it from the row that states it.
    """
    if not file.is_file():
        raise UserError(f"no file {file}; give a benchmark's config, such as configs/benchmark/rwf2000.yaml")
    values = yaml.safe_load(file.read_text())
    pretrained = [row["model"] for row in values["rows"] if row.pop("from_encoder", False)]
    stated = [model["encoder"] for model in pretrained if "encoder" in model]
    for model in pretrained:
        if stated:
            model.setdefault("encoder", stated[0])
    return parse(BenchmarkConfig, values, source=str(file))


def _run(given: argparse.Namespace) -> None:
    report_rows(_rows(given), describe, as_json=given.json)


def _rows(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    benchmark = read_benchmark(given.config)
    for row in benchmark.rows:
        config = benchmark.finetuning(row, benchmark.seeds[0])
        compiled = given.compile and row.model.name == "videomae"
        config = replace(config, engine=replace(config.engine, compile=compiled))
        if given.batch:
            views = replace(config.evaluation, batch=given.batch)
            config = replace(config, batch=given.batch, evaluation=views)
        yield measure_row(row.title, config, torch.device(given.device), steps=given.steps)


if __name__ == "__main__":
    sys.exit(main())
