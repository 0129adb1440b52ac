"""Send a benchmark to W&B: a run of its own with its tables and pictures, through its metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.benchmark.pictures import FOLDER
from finetune.benchmark.results import BenchmarkRow
from finetune.benchmark.tables import TextTable
from videomae.core.files import write_atomic
from videomae.run.directory import RunDirectory
from videomae.run.metrics.config import MetricsConfig
from videomae.run.metrics.wandb_sync import start_wandb_sync


def upload(folder: Path, rows: Sequence[BenchmarkRow], tables: Sequence[TextTable], metrics: MetricsConfig) -> None:
    """Write FOLDER/metrics.jsonl and let W&B follow it, if it is used; a failure is logged.

    The step is the number of finished runs, so that a benchmark that has grown is sent again.
    """
    values = [_values(row) for row in rows]
    columns = list(dict.fromkeys(name for row in values for name in row))
    runs = {"columns": columns, "data": [[row.get(name) for name in columns] for row in values]}
    shown = {table.title: {"columns": table.head, "data": table.rows} for table in tables}
    files = sorted(str(file.relative_to(folder)) for file in (folder / FOLDER).glob("*.jpg"))
    line = {"kind": "benchmark", "step": len(rows), "tables": {"Runs": runs, **shown}, "files": files}
    run = RunDirectory(folder)
    write_atomic(run.metrics, json.dumps(line) + "\n")
    sync = start_wandb_sync(run, metrics)
    if sync is not None:
        sync.close()


def _values(row: BenchmarkRow) -> dict[str, Any]:
    """The flat values of a row, with its metrics and the accuracy on other data."""
    flat = {name: value for name, value in asdict(row).items() if isinstance(value, str | int | float)}
    named = {f"metric_{name}": estimate.value for name, estimate in row.metrics.items() if estimate.value is not None}
    return {**flat, **named, **{f"on_{name}": each.accuracy for name, each in row.cross.items()}}
