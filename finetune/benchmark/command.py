"""The command `videomae benchmark`: train, gather, compare, and print the table."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from finetune.benchmark import report
from finetune.benchmark.collect import about, collect
from finetune.benchmark.config import BenchmarkConfig
from finetune.benchmark.cross_data import tested_split
from finetune.benchmark.pictures import make_pictures
from finetune.benchmark.protocol import Chosen, run_jobs
from finetune.benchmark.results import RESULT, BenchmarkRow, ReportError
from finetune.benchmark.summary import summarize
from finetune.benchmark.upload import upload
from videomae.core.config import load
from videomae.core.distributed import World, distributed_context
from videomae.core.files import write_json
from videomae.core.progress import console, log_to, logger


def run_benchmark(config: Path, overrides: Sequence[str], chosen: Chosen, *, as_json: bool) -> None:
    """Run the benchmark of a config file on this rank; rank 0 prints the table, or the rows as JSON."""
    with distributed_context(os.environ) as world:
        log_to(None, console_too=world.is_main)
        settings = load(BenchmarkConfig, config, overrides)
        run_jobs(settings, world, chosen)
        command = shlex.join(["videomae", "benchmark", str(config), *overrides])
        rows = world.run_on_main(lambda: publish(settings, world, command))
        if world.is_main and as_json:
            sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
        elif world.is_main:
            Console(width=None if console.is_terminal else 160).print(table(rows))


def publish(config: BenchmarkConfig, world: World, command: str) -> list[BenchmarkRow]:
    """Write benchmark.json and the report from the finished runs; other processes may still work on more of them."""
    log_to(None)
    folder = Path(config.run)
    rows, missing = collect(config, world.device)
    if not rows:
        raise ReportError(f"no run of {folder} is finished; give the same command again when one is")
    if missing:
        logger.info("%d of %d runs are finished", len(rows), len(rows) + len(missing))
    write_json(folder / RESULT, [asdict(row) for row in rows])
    known = about(config, commands=[command, *(f"videomae finetune {folder / row.run}/config.yaml" for row in rows)])
    make_pictures(folder, summarize(folder, rows), tested_split(known.shards or ""))
    logger.info("report: %s", report.write(folder, about=known))
    metrics = config.finetuning(config.rows[0], config.seeds[0]).metrics
    upload(folder, rows, metrics)
    return rows


def table(rows: Sequence[BenchmarkRow]) -> Table:
    """The rows as text."""
    found = Table(title="Accuracy on the val split")
    for heading, justify in _COLUMNS:
        found.add_column(heading, justify=justify)
    for row in rows:
        low, high = row.interval
        found.add_row(
            row.title + ("" if row.labels == "all" else f", {row.labels} of the labels"),
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
    return found


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
