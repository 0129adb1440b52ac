"""The command `videomae benchmark`: train, gather, compare, and print the table."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from finetune.benchmark import report
from finetune.benchmark.collect import about, collect
from finetune.benchmark.config import BenchmarkConfig
from finetune.benchmark.cross_data import tested_split
from finetune.benchmark.pictures import make_pictures
from finetune.benchmark.protocol import Chosen, run_jobs
from finetune.benchmark.results import RESULT, ReportError
from finetune.benchmark.summary import summarize
from finetune.benchmark.tables import TextTable
from finetune.benchmark.upload import upload
from videomae.core.config import load
from videomae.core.distributed import World, distributed_context
from videomae.core.files import file_lock, write_json
from videomae.core.progress import console, log_to, logger


def run_benchmark(config: Path, overrides: Sequence[str], chosen: Chosen, *, as_json: bool) -> None:
    """Run the benchmark of a config file on this rank; rank 0 prints the table, or the rows as JSON."""
    with distributed_context(os.environ) as world:
        log_to(None, console_too=world.is_main)
        settings = load(BenchmarkConfig, config, overrides)
        run_jobs(settings, world, chosen)
        command = shlex.join(["videomae", "benchmark", str(config), *overrides])
        tables = world.run_on_main(lambda: publish(settings, world, command))
        if as_json and world.is_main:
            sys.stdout.write((Path(settings.run) / RESULT).read_text())
        elif world.is_main:
            for table in tables:
                Console(width=None if console.is_terminal else 160).print(_rich(table))


def publish(config: BenchmarkConfig, world: World, command: str) -> list[TextTable]:
    """Write benchmark.json and the report from the finished runs; other processes may still work on more of them."""
    log_to(None)
    folder = Path(config.run)
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".report.lock", required=False):
        rows, missing = collect(config, world.device)
        if not rows:
            raise ReportError(f"no run of {folder} is finished; give the same command again when one is")
        if missing:
            logger.info("%d of %d runs are finished", len(rows), len(rows) + len(missing))
        write_json(folder / RESULT, [asdict(row) for row in rows])
        runs = [f"videomae finetune {folder / row.run}/config.yaml" for row in rows]
        known = about(config, commands=[command, *runs])
        make_pictures(folder, summarize(folder, rows), tested_split(known.shards or ""))
        tables = report.write(folder, about=known)
        logger.info("report: %s", folder / report.PAGE)
        upload(folder, rows, tables, config.finetuning(config.rows[0], config.seeds[0]).metrics)
    return tables


def _rich(table: TextTable) -> Table:
    found = Table(title=table.title, caption=table.note or None)
    for number, heading in enumerate(table.head):
        found.add_column(heading, justify="right" if number else "left")
    for row in table.rows:
        found.add_row(*row)
    return found
