"""The last figures of several runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from videomae.run.report import RunReport

_TRAIN = ("epoch", "loss", "normalised_loss", "pixel_loss", "samples_per_second", "mfu", "data_percent", "memory_gb")


def rows(standings: list[RunReport]) -> list[dict[str, Any]]:
    """A row a run: where it stands, the last training figures that any of them has, and the last evaluation's."""
    found = []
    for standing in standings:
        evaluations = standing.lines.get("evaluation", [])
        row: dict[str, Any] = {"run": str(standing.folder), "state": standing.state, "step": standing.step}
        row |= {key: standing.latest.get(key) for key in _TRAIN}
        row["accuracy"] = evaluations[-1].get("accuracy") if evaluations else None
        found.append(row)
    used = [key for key in found[0] if any(row[key] is not None for row in found)]
    return [{key: row[key] for key in used} for row in found]


def compare(found: list[dict[str, Any]]) -> Table:
    """The rows as a table, a column a run."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for row in found:
        table.add_column(Path(row["run"]).name, justify="right", overflow="fold")
    for key in list(found[0])[1:]:
        table.add_row(key.replace("_", " "), *(_shown(row[key]) for row in found))
    return table


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
