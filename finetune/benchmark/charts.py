"""The charts of the report: accuracy against cost, learning curves, ROC, reliability, few labels, false alarms."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from finetune.benchmark.curves import Axes, Points, draw
from finetune.benchmark.summary import Model
from finetune.benchmark.tables import percent
from finetune.negatives import FILE as ALARMS
from finetune.statistics.operating import precision_recall_points, reliability, roc_points
from videomae.run.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart, or in `missing` why there is none; `description` is its text alternative, `note` its caption."""

    title: str
    description: str = ""
    note: str = ""
    svg: Markup | None = None
    missing: str = ""


def draw_chart(
    title: str,
    names: Sequence[str],
    series: Sequence[Points],
    axes: Axes,
    *,
    words: Sequence[str] | None = None,
    note: str = "",
) -> Chart:
    """A line for each name; `words` describe them, by default by their first and last values."""
    empty = [name for name, points in zip(names, series, strict=True) if not points]
    gap = f"No values for: {', '.join(empty)}." if empty else ""
    if len(empty) == len(names):
        return Chart(title=title, missing=gap)
    if words is None:
        form = percent if axes.percent else "{:.3g}".format
        words = [f"from {form(points[0][1])} to {form(points[-1][1])}" if points else "" for points in series]
    text = "; ".join(
        f"{name} {word}".strip() for name, word, points in zip(names, words, series, strict=True) if points
    )
    svg = Markup(draw(title.lower().replace(" ", "-"), series, axes))
    return Chart(title=title, description=text, note=" ".join(filter(None, [note, gap])), svg=svg)


def read_curve(run: Path, *, kind: str, value: str) -> list[tuple[float, ...]]:
    """The (epoch, value) pairs of all records of `kind` in the run's metrics.jsonl; without an epoch, the step."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line.get("kind") == kind]
    return [(line.get("epoch", line["step"]), line[value]) for line in lines if value in line]


def training_charts(folder: Path, models: Sequence[Model], chance: float | None) -> list[Chart]:
    """The learning curves of the first seed of each model; accuracy on the holdout where there is one."""
    runs, names = [folder / model.first.run for model in models], [model.title for model in models]
    held = [read_curve(run, kind="holdout", value="accuracy") for run in runs]
    accuracies = [
        curve or read_curve(run, kind="evaluation", value="accuracy") for run, curve in zip(runs, held, strict=True)
    ]
    where = "holdout" if any(held) else "validation clips"
    shares = Axes(x="epoch", y="accuracy", percent=True, level=chance)
    losses = [read_curve(run, kind="train", value="loss") for run in runs]
    return [
        draw_chart(f"Accuracy on the {where}", names, accuracies, shares),
        draw_chart("Loss in training", names, losses, Axes(x="epoch", y="cross-entropy")),
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
        values = [cost(model) for model in models]
        series = [[(x, model.accuracy, *model.interval)] if x else [] for model, x in zip(models, values, strict=True)]
        if any(series):
            axes = Axes(x=axis, y="accuracy", percent=True, level=chance, log_x=True)
            words = [
                f"{percent(model.accuracy)} at {x:.3g}" if x else "" for model, x in zip(models, values, strict=True)
            ]
            titles = [model.title for model in models]
            charts.append(draw_chart(f"Accuracy against {name}", titles, series, axes, words=words))
    return charts


def score_charts(models: Sequence[Model]) -> list[Chart]:
    """ROC and precision-recall curves of two classes, and the reliability, of each model's first seed."""
    scores = [model.predictions[0].scores() if model.predictions else None for model in models]
    names, known = [model.title for model in models], [each for each in scores if each is not None]
    if not known:
        return []

    def curve(title: str, metric: str, points: Callable[..., Points], axes: Axes) -> Chart:
        values = [model.metric(metric) for model in models]
        words = ["" if value is None else f"{metric.replace('_', ' ')} {value:.3f}" for value in values]
        return draw_chart(title, names, [points(each) if each else [] for each in scores], axes, words=words)

    recall = Axes(x="false-positive rate", y="recall", percent=True, percent_x=True, diagonal=True)
    precision = Axes(x="recall", y="precision", percent=True, percent_x=True)
    sureness = Axes(x="highest probability", y="accuracy", percent=True, percent_x=True, diagonal=True)
    found = [curve("Reliability", "calibration_error", reliability, sureness)]
    if any(each.classes > 2 for each in known):
        return found
    ranked = [
        curve("ROC", "roc_auc", roc_points, recall),
        curve("Precision and recall", "average_precision", precision_recall_points, precision),
    ]
    return ranked + found


def label_chart(models: Sequence[Model], chance: float | None) -> Chart | None:
    """Accuracy against the part of the labels; None without such runs."""
    parts = [model.first for model in models if model.first.labels != "all"]
    if not parts:
        return None
    by_number = any(row.labels_per_class is not None for row in parts)
    titles = list(dict.fromkeys(model.title for model in models))
    curves: dict[str, list[tuple[float, ...]]] = {title: [] for title in titles}
    for model in models:
        x = model.first.labels_per_class if by_number else model.first.label_fraction
        if x is not None:
            curves[model.title].append((x, model.accuracy, *model.interval))
    series = [sorted(points) for points in curves.values()]
    words = [", ".join(f"{percent(y)} at {x:g}" for x, y, *_ in points) for points in series]
    axes = Axes(
        x="labelled clips per class" if by_number else "share of the labels",
        y="accuracy",
        percent=True,
        percent_x=not by_number,
        level=chance,
        log_x=True,
        ticks_at_points=True,
    )
    return draw_chart("Accuracy with few labels", titles, series, axes, words=words)


def alarm_chart(runs: Sequence[Path], names: Sequence[str]) -> Chart | None:
    """False alarms an hour at each threshold; None if no run has been tried on videos without the positive class."""
    found = [json.loads((run / ALARMS).read_text()) if (run / ALARMS).is_file() else None for run in runs]
    hours = [each["hours"] for each in found if each]
    if not hours:
        return None
    series = [[(p["threshold"], p["alarms_per_hour"]) for p in each["curve"]] if each else [] for each in found]
    words = [f"on {each['hours']:.3g} hours" if each else "" for each in found]
    note = f"On {max(hours):.3g} hours of video without the positive class."
    axes = Axes(x="threshold", y="alarms an hour")
    return draw_chart("False alarms an hour", names, series, axes, words=words, note=note)
