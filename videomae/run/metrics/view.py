"""Render a run in a terminal: progress, metrics with their history, events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from videomae.core.progress import duration
from videomae.run.metrics.log import Line
from videomae.run.report import RunReport

NARROW = 76  # columns; a narrower terminal shows no minima and maxima
_BARS = "▁▂▃▄▅▆▇█"

_COLORS = {"running": "green", "finished": "blue", "stopped": "yellow", "failed": "red", "unknown": "white"}


@dataclass(frozen=True)
class _Row:
    """A row of the metrics table: its title, its key in metrics.jsonl, and the format of its values."""

    title: str
    key: str
    form: str = "{:.4g}"
    factor: float = 1.0


_ROWS = (
    _Row("loss", "loss", "{:.4f}"),
    _Row("loss, worst rank", "loss_max", "{:.4f}"),
    _Row("normalized loss", "normalized_loss", "{:.4f}"),
    _Row("pixel loss", "pixel_loss", "{:.3g}"),
    _Row("gradient norm", "grad_norm", "{:.3g}"),
    _Row("lr", "lr", "{:.2e}"),
    _Row("clips/s", "samples_per_second"),
    _Row("MFU %", "mfu", "{:.1f}", 100.0),
    _Row("waiting for data %", "data_percent", "{:.1f}"),
    _Row("memory GB", "memory_gb", "{:.2f}"),
)


def view(report: RunReport, *, width: int) -> RenderableType:
    """The view of a run for a terminal of `width` columns."""
    parts: list[RenderableType] = [_progress(report, width)]
    if report.train:
        parts.append(_metrics_table(report.train, width))
    else:
        parts.append(Text("no step is logged yet", style="dim"))
    parts.append(_events(report))
    title = Text.assemble((report.folder.name, "bold"), " · ", (report.state, f"bold {_COLORS[report.state]}"))
    return Panel(Group(*parts), title=title, box=box.ROUNDED, width=width, padding=(0, 1))


def _progress(report: RunReport, width: int) -> RenderableType:
    text = Text()
    total = report.total
    text.append(f"step {report.step}" + (f" of {total} ({report.step / total:.0%})" if total else ""))
    if "epoch" in report.latest:
        text.append(f", epoch {report.latest['epoch']:.4g}")
    if report.seconds_left is not None:
        text.append(f", {duration(report.seconds_left)} left")
    status = report.status
    if status is not None:
        job = f" job {status.launcher.job[:12]}" if status.launcher.job else ""
        processes = "1 process" if status.processes == 1 else f"{status.processes} processes"
        text.append(f" · {processes} on {status.host}, {status.launcher.kind}{job}", style="dim")
    parts: list[RenderableType] = [text]
    if total:
        style = _COLORS[report.state]
        parts.append(ProgressBar(total, report.step, width=width - 4, complete_style=style, finished_style=style))
    if report.stale:
        age = duration(report.lock.heartbeat_age)
        parts.append(Text(f"its process has ended, or has had no heartbeat for {age}", style="bold red"))
    if status is not None and status.reason and report.state in ("stopped", "failed"):
        parts.append(Text(status.reason, style=_COLORS[report.state]))
    return Group(*parts)


def _metrics_table(train: list[Line], width: int) -> RenderableType:
    narrow = width < NARROW
    table = Table(box=None, padding=(0, 1), show_edge=False, expand=False, header_style="dim")
    table.add_column("")
    table.add_column("now", justify="right")
    table.add_column("history", no_wrap=True)
    if not narrow:
        table.add_column("min", justify="right")
        table.add_column("max", justify="right")
    for row in _ROWS:
        values = [value * row.factor for value in _values(train, row.key)]
        finite = [value for value in values if math.isfinite(value)]
        if all(line.get(row.key) is None for line in train) or _repeats_loss(train, row.key):
            continue
        ends = () if narrow else [row.form.format(end(finite, default=math.nan)) for end in (min, max)]
        history = sparkline(values, max(8, width - (36 if narrow else 58)))
        table.add_row(row.title, row.form.format(values[-1]), Text(history, style="cyan"), *ends)
    return table


def _repeats_loss(train: list[Line], key: str) -> bool:
    """Whether a metric equals the loss, as `loss_max` does on a single rank."""
    return key in ("loss_max", "normalized_loss", "pixel_loss") and all(
        math.isclose(line[key], line["loss"], rel_tol=1e-4) for line in train[-20:] if key in line
    )


def _events(report: RunReport) -> RenderableType:
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    evaluation = _last(report, "evaluation")
    if evaluation is not None:
        shown = {key: value for key, value in evaluation.items() if key not in ("kind", "step", "epoch")}
        table.add_row("evaluation", f"step {evaluation['step']}: {_format_numbers(shown)}")
    table.add_row("checkpoint", _checkpoint(report))
    counts = f"{_plural(report.skipped, 'step')} skipped, {_plural(report.quarantined, 'sample')} quarantined"
    rollbacks = report.lines.get("rollback", [])
    table.add_row("health", counts + (f", {_plural(len(rollbacks), 'rollback')}" if rollbacks else ""))
    straggler = _last(report, "straggler")
    if straggler is not None:
        compared = f"{straggler['seconds']:.3g} s per step, the median rank {straggler['median_seconds']:.3g} s"
        table.add_row("straggler", f"rank {straggler['rank']} on {straggler['host']}: {compared}")
    return table


def _checkpoint(report: RunReport) -> str:
    if report.checkpoint is None:
        return "none yet"
    step = int(report.checkpoint.name.rpartition("-")[2])
    text = f"step {step}, {duration(report.checkpoint_age or 0.0)} ago"
    saved = _last(report, "checkpoint")
    if saved is not None and "seconds" in saved:
        blocked = saved.get("blocked_seconds", saved["seconds"])
        text += f", saved in {saved['seconds']:.3g} s of which {blocked:.3g} s blocked training"
    return text + (f"; {saved['fault']}" if saved is not None and saved.get("fault") else "")


def _values(lines: list[Line], key: str) -> list[float]:
    found = (line.get(key) for line in lines)
    return [float(value) if isinstance(value, int | float) else math.nan for value in found]


def _last(report: RunReport, kind: str) -> Line | None:
    lines = report.lines.get(kind)
    return lines[-1] if lines else None


def _format_numbers(values: Line) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in values.items() if isinstance(value, int | float))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def sparkline(values: Sequence[float], width: int) -> str:
    """One row of at most `width` bars, each the mean of neighbours; a gap where no value is finite."""
    finite = np.where(np.isfinite(values), values, np.nan)
    parts = np.array_split(finite, min(width, len(finite)))
    means = np.array([np.nan if np.isnan(part).all() else np.nanmean(part) for part in parts])
    if np.isnan(means).all():
        return " " * len(means)
    low, high = np.nanmin(means), np.nanmax(means)
    shares = means * 0 + 0.5 if math.isclose(low, high, rel_tol=1e-9) else (means - low) / (high - low)
    return "".join(" " if math.isnan(share) else _BARS[min(int(share * 8), 7)] for share in shares)
