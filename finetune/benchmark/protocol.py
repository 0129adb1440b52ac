"""Train and compare many models under one protocol: `videomae benchmark CONFIG`.

Each row of the table is a fine-tuning run in a subdirectory of the benchmark directory. All rows use the same data,
epochs, augmentation and views; a row may override settings for its architecture (learning rate, layer decay). Finished
rows are reused.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import nn

from finetune.benchmark.results import RESULT, About, BenchmarkRow
from finetune.config import FinetuneConfig
from finetune.evaluation import FILE
from finetune.export import load_classifier
from finetune.models import ModelConfig, published
from finetune.stream import split
from finetune.train import train
from videomae.core.config import ConfigError, configclass, load, parse, set_value, to_dict
from videomae.core.distributed import World, distributed_context
from videomae.core.errors import UserError
from videomae.core.files import write_json
from videomae.core.progress import console, log_to, logger
from videomae.models.flops import count_flops


@configclass
class RowConfig:
    """One row of the table: a model and its overrides of the protocol."""

    title: str
    model: ModelConfig
    from_encoder: bool = False  # initialize from `BenchmarkConfig.encoder`
    settings: dict[str, Any] = Field(default_factory=dict)  # overrides of the protocol, such as {optimizer.lr: 1e-3}


@configclass
class BenchmarkConfig:
    """The rows and their shared protocol, which is a fine-tuning config without `run`, `seed` and `model`."""

    stage: Literal["benchmark"] = "benchmark"
    run: str
    title: str = "Benchmark"
    seeds: tuple[int, ...] = (0,)
    encoder: str | None = None  # export folder of a pretraining run, for rows with from_encoder
    protocol: dict[str, Any]
    rows: tuple[RowConfig, ...]

    def __post_init__(self) -> None:
        if not self.rows or not self.seeds:
            raise UserError("a benchmark needs at least one row and one seed")
        titles = [row.title for row in self.rows]
        if len(set(titles)) < len(titles):
            raise UserError(f"row titles must differ, got {titles}")
        for row in self.rows:
            self.finetuning(row, self.seeds[0])

    def finetuning(self, row: RowConfig, seed: int) -> FinetuneConfig:
        """Return the fine-tuning config of `row` with `seed`.

        Raises:
            ConfigError: protocol and settings do not form a valid fine-tuning config.
        """
        values = json.loads(json.dumps(self.protocol))
        for key, value in row.settings.items():
            set_value(values, key, value)
        folder = Path(self.run) / "rows" / f"{_slug(row.title)}-seed{seed}"
        model = to_dict(row.model)
        if row.from_encoder:
            if self.encoder is None:
                raise ConfigError(f"row {row.title!r} starts from an encoder: type encoder=runs/NAME/export")
            model["weights"] = self.encoder
        values |= {"run": str(folder), "seed": seed, "model": model}
        return parse(FinetuneConfig, values, source=f"row {row.title!r}")


def benchmark(config: BenchmarkConfig, world: World) -> list[BenchmarkRow]:
    """Train and evaluate each row with each seed and write benchmark.json; all ranks must call this function."""
    folder = Path(config.run)
    rows = []
    for seed in config.seeds:
        for row in config.rows:
            if world.is_main:
                logger.info("row %r, seed %d", row.title, seed)
            finetuning = config.finetuning(row, seed)
            train(finetuning, world)
            describe = partial(_describe, row.title, finetuning, folder=folder, device=world.device)
            rows.append(world.run_on_main(describe))
    log_to(None, console_too=world.is_main)
    if world.is_main:
        write_json(folder / RESULT, [asdict(row) for row in rows])
        _about(config).save(folder)
    return rows


def _about(config: BenchmarkConfig) -> About:
    """Describe the data and the protocol for the report."""
    first = config.finetuning(config.rows[0], config.seeds[0])
    train_split, val_split = split(first, "train"), split(first, "val")
    overrides = [f"{row.title}: {', '.join(row.settings)}" for row in config.rows if row.settings]
    return About(
        title=config.title,
        data=f"{train_split.samples} training and {val_split.samples} validation clips of the classes "
        f"{', '.join(val_split.classes)}.",
        protocol=f"Every model is trained for {first.schedule.duration} in batches of {first.batch}, with the same "
        f"augmentation, and tested on {first.evaluation.clips} x {first.evaluation.crops} views per video. The "
        "validation clips select nothing: the weights of the last step are tested."
        + (f" Overridden settings: {'; '.join(overrides)}." if overrides else ""),
        train_clips=train_split.samples,
    )


def _describe(title: str, config: FinetuneConfig, *, folder: Path, device: torch.device) -> BenchmarkRow:
    run, model = config.directory, config.model
    evaluation = json.loads((run.path / FILE).read_text())
    summary = json.loads(run.summary.read_text())
    module = load_classifier(run.export).module
    example_BCTHW = torch.zeros(1, *model.input.shape)
    counted = count_flops(module, example_BCTHW)
    figures = published(model.name)
    return BenchmarkRow(
        model=model.name,
        title=title,
        pretrained=model.pretrained,
        params=counted.parameters,
        gmacs=round(counted.gmacs, 4),
        accuracy=evaluation["accuracy"],
        interval=tuple(evaluation["interval"]),
        correct=evaluation["correct"],
        total=evaluation["total"],
        clips_per_second=round(_throughput(module, example_BCTHW, device), 2),
        seconds=summary["seconds"],
        seed=config.seed,
        published=figures.rwf2000 if figures else None,
        run=str(run.path.relative_to(folder)),
    )


@torch.no_grad()
def _throughput(module: nn.Module, example_BCTHW: torch.Tensor, device: torch.device, *, batch: int = 8) -> float:
    """Measure the forward pass in clips per second: the median of five batches after one warm-up batch."""
    module = module.to(device)
    video_BCTHW = example_BCTHW.expand(batch, -1, -1, -1, -1).contiguous().to(device)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        module(video_BCTHW)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return batch / sorted(times[1:])[2]


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _table(rows: Sequence[BenchmarkRow]) -> Table:
    table = Table(title="Accuracy on the val split")
    for heading, justify in _COLUMNS:
        table.add_column(heading, justify=justify)
    for row in rows:
        low, high = row.interval
        table.add_row(
            row.title,
            row.pretrained,
            f"{row.params / 1e6:.2f}",
            f"{row.gmacs:.2f}",
            f"{row.accuracy:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{row.clips_per_second:.1f}",
            f"{row.seconds:.0f}",
            str(row.seed),
            "" if row.published is None else f"{row.published:.1f}%",
        )
    return table


_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("model", "left"),
    ("pretrained", "left"),
    ("params M", "right"),
    ("GMACs", "right"),
    ("accuracy", "right"),
    ("95 % interval", "right"),
    ("clips/s", "right"),
    ("seconds", "right"),
    ("seed", "right"),
    ("published, RWF-2000", "right"),
)


def run_benchmark(config: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    """Run the benchmark of a config file on this rank; rank 0 prints the table, or the rows as JSON."""
    with distributed_context(os.environ) as world:
        log_to(None, console_too=world.is_main)
        rows = benchmark(load(BenchmarkConfig, config, overrides), world)
        if world.is_main and as_json:
            sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
        elif world.is_main:
            Console(width=None if console.is_terminal else 160).print(_table(rows))
