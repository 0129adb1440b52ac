"""The charts of the report: accuracy against cost, learning curves, ROC, reliability, few labels, false alarms."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from finetune.benchmark.curves import Axes, IntervalPoint, Points, draw, draw_intervals
from finetune.benchmark.results import read_curve
from finetune.benchmark.summary import Model
from finetune.benchmark.tables import percent
from finetune.negatives import FILE as ALARMS
from finetune.statistics.operating import precision_recall_points, reliability, roc_points

_CURVE_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart, or in `missing` why there is none; `description` is its text alternative, `note` its caption."""

    title: str
    description: str = ""
    note: str = ""
    svg: Markup | None = None
    missing: str = ""


def training_charts(folder: Path, models: Sequence[Model], chance: float | None) -> list[Chart]:
    """The learning curves of the first seed of each model; accuracy on the holdout where there is one."""
    runs = [folder / model.first.run for model in models]
    held = [read_curve(run, kind="holdout", value="accuracy") for run in runs]
    accuracies = [
        curve or read_curve(run, kind="evaluation", value="accuracy") for run, curve in zip(runs, held, strict=True)
    ]
    where = "holdout" if any(held) else "validation clips"
    names = [model.title for model in models]
    shares = Axes(x="epoch", y="accuracy", percent=True, level=chance)
    losses = [read_curve(run, kind="train", value="loss") for run in runs]
    return [
        line_chart(f"Accuracy on the {where}", names, accuracies, shares),
        line_chart("Loss in training", names, losses, Axes(x="epoch", y="cross-entropy")),
    ]


def cost_charts(models: Sequence[Model], chance: float | None) -> list[Chart]:
    """Accuracy with its interval against parameters, multiply-adds and latency."""
    costs: list[tuple[str, str, Callable[[Model], float | None]]] = [
        ("parameters", "millions of parameters", lambda model: model.first.params / 1e6),
        ("computation", "GMACs per clip", lambda model: model.first.gmacs),
        ("latency", "milliseconds per clip", lambda model: model.first.latency_ms),
    ]
    charts = []
    for name, axis, cost in costs:
        found = [(model, value) for model in models if (value := cost(model)) is not None and value > 0]
        if not found:
            continue
        series: list[list[IntervalPoint]] = [
            [(value, model.accuracy, *model.interval)] if (value := cost(model)) else [] for model in models
        ]
        axes = Axes(x=axis, y="accuracy", percent=True, level=chance, log_x=True)
        words = "; ".join(f"{model.title} {percent(model.accuracy)} at {value:.3g}" for model, value in found)
        svg = Markup(draw_intervals(f"accuracy-{name}", series, axes))
        charts.append(Chart(title=f"Accuracy against {name}", description=words, svg=svg))
    return charts


def score_charts(models: Sequence[Model]) -> list[Chart]:
    """ROC and precision-recall curves of two classes, and the reliability, of each model's first seed."""
    scores = [model.predictions[0].scores() if model.predictions else None for model in models]
    names = [model.title for model in models]
    charts = []
    if all(each is None or each.classes == 2 for each in scores):
        roc = [roc_points(each) if each is not None else [] for each in scores]
        axes = Axes(x="false-positive rate", y="recall", percent=True, percent_x=True, diagonal=True)
        values = [_area(model, "roc_auc") for model in models]
        charts.append(line_chart("ROC", names, roc, axes, ends=values, limit=_CURVE_POINTS))
        curves = [precision_recall_points(each) if each is not None else [] for each in scores]
        axes = Axes(x="recall", y="precision", percent=True, percent_x=True)
        values = [_area(model, "average_precision") for model in models]
        charts.append(line_chart("Precision and recall", names, curves, axes, ends=values, limit=_CURVE_POINTS))
    bins = [[(b.confidence, b.accuracy) for b in reliability(each)] if each is not None else [] for each in scores]
    axes = Axes(x="highest probability", y="accuracy", percent=True, percent_x=True, diagonal=True)
    values = [_area(model, "calibration_error") for model in models]
    charts.append(line_chart("Reliability", names, bins, axes, ends=values))
    return charts


def _area(model: Model, name: str) -> str:
    value = model.metric(name)
    return "" if value is None else f"{name.replace('_', ' ')} {value:.3f}"


def label_chart(models: Sequence[Model], chance: float | None) -> Chart | None:
    """Accuracy against the part of the labels; None without such runs."""
    parts = [model.first for model in models if model.first.labels != "all"]
    if not parts:
        return None
    by_number = any(row.labels_per_class is not None for row in parts)
    titles = list(dict.fromkeys(model.title for model in models))
    series: list[list[IntervalPoint]] = []
    for title in titles:
        points = []
        for model in models:
            x = model.first.labels_per_class if by_number else model.first.label_fraction
            if model.title == title and x is not None:
                points.append((float(x), model.accuracy, *model.interval))
        series.append(sorted(points))
    axis = "labelled clips per class" if by_number else "share of the labels"
    axes = Axes(
        x=axis, y="accuracy", percent=True, percent_x=not by_number, level=chance, log_x=True, ticks_at_points=True
    )
    shown = [(title, points) for title, points in zip(titles, series, strict=True) if len(points) > 1 or by_number]
    words = "; ".join(
        f"{title}: " + ", ".join(f"{percent(y)} at {x:g}" for x, y, *_ in points) for title, points in shown if points
    )
    svg = Markup(draw_intervals("few-labels", series, axes))
    return Chart(title="Accuracy with few labels", description=words, svg=svg)


def alarm_chart(runs: Sequence[Path], names: Sequence[str]) -> Chart | None:
    """False alarms an hour at each threshold; None if no run has been tried on videos without the positive class."""
    found = [json.loads((run / ALARMS).read_text()) if (run / ALARMS).is_file() else None for run in runs]
    if not any(found):
        return None
    series = [
        [(point["threshold"], point["alarms_per_hour"]) for point in each["curve"]] if each is not None else []
        for each in found
    ]
    hours = max(each["hours"] for each in found if each is not None)
    ends = [f"on {each['hours']:.3g} hours" if each is not None else "" for each in found]
    chart = line_chart("False alarms an hour", names, series, Axes(x="threshold", y="alarms an hour"), ends=ends)
    note = " ".join(filter(None, [f"On {hours:.3g} hours of video without the positive class.", chart.note]))
    return replace(chart, note=note)


def line_chart(
    title: str,
    names: Sequence[str],
    series: Sequence[Points],
    axes: Axes,
    *,
    ends: Sequence[str] | None = None,
    limit: int | None = None,
) -> Chart:
    """A line for each name; `ends` describes them in words, by default their first and last values."""
    empty = [name for name, points in zip(names, series, strict=True) if not points]
    if len(empty) == len(names):
        source = "predictions.csv is missing" if ends is not None else "metrics.jsonl has no such values"
        return Chart(title=title, missing=f"{source} for: {', '.join(names)}.")
    words = ends if ends is not None else [_describe(points, axes) if points else "" for points in series]
    text = "; ".join(f"{name} {word}" for name, word, points in zip(names, words, series, strict=True) if points)
    note = f"No values for: {', '.join(empty)}." if empty else ""
    key = title.lower().replace(" ", "-")
    svg = Markup(draw(key, series, axes, **({} if limit is None else {"limit": limit})))
    return Chart(title=title, description=text, note=note, svg=svg)


def _describe(points: Points, axes: Axes) -> str:
    first, last = points[0][1], points[-1][1]
    if axes.percent:
        return f"from {percent(first)} to {percent(last)}"
    return f"from {first:.3g} to {last:.3g}"
