"""Send a benchmark to W&B: a run of its own with every row, metric and picture, through its metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from finetune.benchmark.pictures import FOLDER
from finetune.benchmark.results import BenchmarkRow
from videomae.core.files import write_atomic
from videomae.run.directory import RunDirectory
from videomae.run.metrics.config import MetricsConfig
from videomae.run.metrics.wandb_sync import start_wandb_sync


def upload(folder: Path, rows: Sequence[BenchmarkRow], metrics: MetricsConfig) -> None:
    """Write FOLDER/metrics.jsonl and let W&B follow it, if it is used; a failure is logged."""
    lines = [json.dumps({"kind": "row", "step": number, **_values(row)}) for number, row in enumerate(rows)]
    files = sorted(str(file.relative_to(folder)) for file in (folder / FOLDER).glob("*.jpg"))
    lines.append(json.dumps({"kind": "pictures", "step": len(rows), "files": files}))
    run = RunDirectory(folder)
    write_atomic(run.metrics, "\n".join(lines) + "\n")
    sync = start_wandb_sync(run, metrics)
    if sync is not None:
        sync.close()


def _values(row: BenchmarkRow) -> dict[str, object]:
    """The flat values of a row, with its metrics and the accuracy on other data."""
    flat = {name: value for name, value in asdict(row).items() if isinstance(value, str | int | float)}
    named = {f"metric_{name}": estimate.value for name, estimate in row.metrics.items() if estimate.value is not None}
    return {**flat, **named, **{f"on_{name}": each.accuracy for name, each in row.cross.items()}}
