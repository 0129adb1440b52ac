"""The picture of a run in a terminal: where it stands, the course of its loss, each figure with its own, and events."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from videomae.run.metrics.log import Line
from videomae.run.metrics.plot import chart, sparkline
from videomae.run.report import RunReport

NARROW = 76  # columns, below which the ranges of the figures are left out
CHART_ROWS = 8
LOGARITHMIC_FROM = 10  # times that the highest loss is the lowest
_COLOURS = {"running": "green", "finished": "blue", "stopped": "yellow", "failed": "red", "unknown": "white"}


@dataclass(frozen=True)
class _Figure:
    """A row of the table: what it is called here and in the file, and how its values are shown."""

    title: str
    key: str
    form: str = "{:.4g}"
    factor: float = 1.0


_FIGURES = (
    _Figure("loss", "loss", "{:.4f}"),
    _Figure("loss, worst rank", "loss_max", "{:.4f}"),
    _Figure("loss, normalised", "normalised_loss", "{:.4f}"),
    _Figure("loss in pixels", "pixel_loss", "{:.3g}"),
    _Figure("gradient norm", "gradient_norm", "{:.3g}"),
    _Figure("lr", "lr", "{:.2e}"),
    _Figure("clips a second", "samples_per_second"),
    _Figure("MFU %", "mfu", "{:.1f}", 100.0),
    _Figure("waiting for data %", "data_percent", "{:.1f}"),
    _Figure("memory GB", "memory_gb", "{:.2f}"),
)


def view(standing: RunReport, *, width: int) -> RenderableType:
    """All of it, for a terminal of `width` columns."""
    parts: list[RenderableType] = [_progress(standing, width)]
    if standing.train:
        parts += [_loss_chart(standing.train, width), _figures(standing.train, width)]
    else:
        parts.append(Text("no step is logged yet", style="dim"))
    parts.append(_events(standing))
    title = Text.assemble((standing.folder.name, "bold"), " · ", (standing.state, f"bold {_COLOURS[standing.state]}"))
    return Panel(Group(*parts), title=title, box=box.ROUNDED, width=width, padding=(0, 1))


def _progress(standing: RunReport, width: int) -> RenderableType:
    words = Text()
    total = standing.total
    words.append(f"step {standing.step}" + (f" of {total} ({standing.step / total:.0%})" if total else ""))
    if "epoch" in standing.latest:
        words.append(f", epoch {standing.latest['epoch']:.4g}")
    if standing.seconds_left is not None:
        words.append(f", {duration(standing.seconds_left)} left")
    told = standing.status
    if told is not None:
        job = f" job {told.launcher.job[:12]}" if told.launcher.job else ""
        words.append(f" · {told.processes} processes on {told.host}, {told.launcher.kind}{job}", style="dim")
    parts: list[RenderableType] = [words]
    if total:
        done = round((width - 4) * min(1.0, standing.step / total))
        parts.append(Text.assemble(("━" * done, _COLOURS[standing.state]), ("─" * (width - 4 - done), "dim")))
    if standing.stale:
        age = duration(standing.lock.heartbeat_age)
        parts.append(Text(f"its process has ended, or has had no heartbeat for {age}", style="bold red"))
    if told is not None and told.reason and standing.state in ("stopped", "failed"):
        parts.append(Text(told.reason, style=_COLOURS[standing.state]))
    return Group(*parts)


def _loss_chart(train: list[Line], width: int) -> RenderableType:
    losses = _values(train, "loss")
    columns = width - 15
    finite = [loss for loss in losses if math.isfinite(loss)] or [0.0]
    logarithmic = min(finite) > 0 and max(finite) > LOGARITHMIC_FROM * min(finite)
    shown = [math.log10(loss) if math.isfinite(loss) else loss for loss in losses] if logarithmic else losses
    rows, low, high = chart(shown, width=columns, height=CHART_ROWS)
    places = ((0, high), (CHART_ROWS // 2, (low + high) / 2), (CHART_ROWS - 1, low))
    edges = {row: f"{10**value if logarithmic else value:.4g}" for row, value in places}
    drawn = Text()
    for number, row in enumerate(rows):
        drawn.append(f"{edges.get(number, ''):>8} ┤" if number in edges else " " * 9 + "│", style="dim")
        drawn.append(row + "\n", style="cyan")
    first, last = f"step {train[0]['step']}", str(train[-1]["step"])
    name = "loss, logarithmic" if logarithmic else "loss"
    drawn.append(" " * 10 + first + name.center(columns - len(first) - len(last)) + last, style="dim")
    return drawn


def _figures(train: list[Line], width: int) -> RenderableType:
    narrow = width < NARROW
    table = Table(box=None, padding=(0, 1), show_edge=False, expand=False, header_style="dim")
    table.add_column("")
    table.add_column("now", justify="right")
    table.add_column("course", no_wrap=True)
    if not narrow:
        table.add_column("lowest", justify="right")
        table.add_column("highest", justify="right")
    for figure in _FIGURES:
        values = [value * figure.factor for value in _values(train, figure.key)]
        finite = [value for value in values if math.isfinite(value)]
        if not finite or _repeats_loss(train, figure.key):
            continue
        ends = () if narrow else (figure.form.format(min(finite)), figure.form.format(max(finite)))
        course = sparkline(values, max(8, width - (36 if narrow else 58)))
        table.add_row(figure.title, figure.form.format(values[-1]), Text(course, style="cyan"), *ends)
    return table


def _repeats_loss(train: list[Line], key: str) -> bool:
    """Whether that figure says nothing beside the loss, as the worst rank of one does."""
    return key in ("loss_max", "normalised_loss", "pixel_loss") and all(
        math.isclose(line[key], line["loss"], rel_tol=1e-4) for line in train[-20:] if key in line
    )


def _events(standing: RunReport) -> RenderableType:
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    evaluation = _last(standing, "evaluation")
    if evaluation is not None:
        shown = {key: value for key, value in evaluation.items() if key not in ("kind", "step", "epoch")}
        table.add_row("evaluation", f"step {evaluation['step']}: {_words(shown)}")
    table.add_row("checkpoint", _checkpoint(standing))
    counts = f"{_many(standing.skipped, 'step')} skipped, {_many(standing.quarantined, 'sample')} quarantined"
    rollbacks = standing.lines.get("rollback", [])
    table.add_row("health", counts + (f", gone back {_many(len(rollbacks), 'time')}" if rollbacks else ""))
    straggler = _last(standing, "straggler")
    if straggler is not None:
        compared = f"{straggler['seconds']:.3g} s a step, the median rank {straggler['median_seconds']:.3g} s"
        table.add_row("straggler", f"rank {straggler['rank']} on {straggler['host']}: {compared}")
    return table


def _checkpoint(standing: RunReport) -> str:
    if standing.checkpoint is None:
        return "none yet"
    step = int(standing.checkpoint.name.rpartition("-")[2])
    words = f"step {step}, {duration(standing.checkpoint_age or 0.0)} ago"
    saved = _last(standing, "checkpoint")
    if saved is not None and "seconds" in saved:
        blocked = saved.get("blocked_seconds", saved["seconds"])
        words += f", saved in {saved['seconds']:.3g} s of which {blocked:.3g} s held training up"
    return words + (f"; {saved['fault']}" if saved is not None and saved.get("fault") else "")


def _values(lines: list[Line], key: str) -> list[float]:
    found = (line.get(key) for line in lines)
    return [float(value) if isinstance(value, int | float) else math.nan for value in found]


def _last(standing: RunReport, kind: str) -> Line | None:
    lines = standing.lines.get(kind)
    return lines[-1] if lines else None


def _words(values: Line) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in values.items() if isinstance(value, int | float))


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def duration(seconds: float) -> str:
    """A time that a person reads at a glance."""
    if not math.isfinite(seconds):
        return "an unknown time"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 2:
        return f"{days:.1f} days"
    if hours >= 1:
        return f"{int(hours)} h {int(minutes) % 60:02d} min"
    return f"{int(minutes)} min {int(seconds) % 60:02d} s" if minutes >= 1 else f"{seconds:.0f} s"
