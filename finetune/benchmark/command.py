"""The command `videomae benchmark`: train, gather, compare, print the table, and send it to W&B."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from finetune.benchmark import report
from finetune.benchmark.collect import about, collect
from finetune.benchmark.config import BenchmarkConfig
from finetune.benchmark.cross_data import tested_split
from finetune.benchmark.pictures import FOLDER, make_pictures
from finetune.benchmark.protocol import Chosen, run_jobs
from finetune.benchmark.results import RESULT, ReportError
from finetune.benchmark.summary import summarize
from finetune.benchmark.tables import TextTable
from videomae.core.config import load
from videomae.core.distributed import World, distributed_context
from videomae.core.files import file_lock, write_atomic, write_json
from videomae.core.progress import log_to, logger, output_width, print_wide
from videomae.run.directory import RunDirectory
from videomae.run.metrics.config import MetricsConfig
from videomae.run.metrics.wandb_sync import start_wandb_sync

_WRAPPED = 16  # characters, from which on a cell may be wrapped
_BORDER = 3  # characters between two columns


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
            print_wide(*(readable(table, output_width()) for table in tables))


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
            logger.info("%d of %d runs are finished", len(rows), len(rows) + missing)
        write_json(folder / RESULT, [asdict(row) for row in rows])
        runs = [f"videomae finetune {folder / row.run}/config.yaml" for row in rows]
        known = about(config, commands=[command, *runs])
        make_pictures(folder, summarize(folder, rows), tested_split(known.shards or ""))
        tables = report.write(folder, about=known)
        logger.info("report: %s", folder / report.PAGE)
        _upload(folder, tables, config.finetuning(config.rows[0], config.seeds[0]).metrics, step=len(rows))
    return tables


def _upload(folder: Path, tables: Sequence[TextTable], metrics: MetricsConfig, *, step: int) -> None:
    """Write FOLDER/metrics.jsonl with the tables and pictures and let W&B follow it, if it is used.

    `step` is the number of finished runs, so that a benchmark that has grown is sent again.
    """
    shown = {table.title: {"columns": table.head, "data": table.rows} for table in tables}
    files = sorted(str(file.relative_to(folder)) for file in (folder / FOLDER).glob("*.jpg"))
    run = RunDirectory(folder)
    line = {"kind": "benchmark", "step": step, "tables": shown, "files": files}
    write_atomic(run.metrics, json.dumps(line) + "\n")
    sync = start_wandb_sync(run, metrics)
    if sync is not None:
        sync.close()


def readable(table: TextTable, width: int) -> Table:
    """The columns that fit into `width` without cut figures, at least two; the caption names the others."""
    columns = list(zip(table.head, *table.rows, strict=True))
    least = [max(max(map(len, head.split())), min(_WRAPPED, max(map(len, cells)))) for head, *cells in columns]
    ends = itertools.accumulate(characters + _BORDER for characters in least)
    count = max(2, sum(end < width for end in ends))
    others = f"The report has more columns: {', '.join(table.head[count:])}." if table.head[count:] else ""
    found = Table(title=table.title, caption=" ".join(filter(None, (table.note, others))) or None)
    spare = width - 1 - sum(characters + _BORDER for characters in least[:count])
    for number, (characters, cells) in enumerate(zip(least[:count], columns, strict=False)):
        more = max(0, min(spare, max(map(len, cells)) - characters))
        spare -= more
        justify = "right" if number else "left"
        found.add_column(cells[0], justify=justify, overflow="fold", width=characters + more)
    for row in table.rows:
        found.add_row(*row[:count])
    return found
