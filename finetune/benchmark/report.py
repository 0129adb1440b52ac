"""Render a benchmark as one self-contained HTML page: `videomae report FOLDER` writes FOLDER/report.html.

The report is generated from the files of the benchmark and its runs, so it can be regenerated at any time. Where a file
is missing, the report says so. All resources are inlined, a content security policy forbids requests, and all text is
escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune.benchmark.curves import DASHES, SERIES, Axes, Points, draw
from finetune.benchmark.results import (
    About,
    BenchmarkRow,
    RecordedEvaluation,
    read_curve,
    read_environment,
    read_evaluation,
    read_rows,
    read_visualizations,
)
from videomae.core.files import write_atomic

MAX_CLASSES = 12  # with more classes, the report lists the most frequent confusions instead of the matrix
MAX_IMAGES = 6
MAX_CONFUSIONS = 10


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart, or in `missing` why there is none; `description` is its text alternative, `note` its caption."""

    title: str
    description: str = ""
    note: str = ""
    svg: Markup | None = None
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The confusion matrix of a row, or in `missing` why there is none; `confusions` are (true, predicted, clips)."""

    title: str
    evaluation: RecordedEvaluation | None = None
    confusions: Sequence[tuple[str, str, int]] = ()
    missing: str = ""


def write(folder: Path, *, about: About | None = None) -> Path:
    """Write FOLDER/report.html from FOLDER/benchmark.json and its runs, and return its path.

    `about` is saved as about.json; if it is None, the saved about.json is used.

    Raises:
        ReportError: benchmark.json is missing, or benchmark.json or about.json is invalid.
    """
    rows = read_rows(folder)
    if about is not None:
        about.save(folder)
    page = folder / "report.html"
    write_atomic(page, render(folder, rows, about or About.read(folder)))
    return page


def render(folder: Path, rows: Sequence[BenchmarkRow], about: About) -> str:
    """Render the report as HTML."""
    evaluations = [read_evaluation(folder / row.run) for row in rows]
    runs = [folder / row.run for row in rows]
    pretraining = folder / about.pretraining if about.pretraining else None
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters |= {
        "percent": percent,
        "count": count,
        "duration": duration,
        "figure": figure,
        "initial_weights": initial_weights,
    }
    return page.get_template("report.html.jinja").render(
        about=about,
        rows=rows,
        best=max(rows, key=lambda row: row.accuracy),
        chance=majority_accuracy(evaluations),
        dashes=DASHES,
        series=SERIES,
        charts=_charts(rows, runs, majority_accuracy(evaluations)),
        pretraining=_pretraining_chart(pretraining),
        matrices=[_matrix(row, found) for row, found in zip(rows, evaluations, strict=True)],
        max_classes=MAX_CLASSES,
        reconstructions=_reconstructions(pretraining),
        environment=_environment(read_environment([folder, *runs])),
    )


def majority_accuracy(evaluations: Sequence[RecordedEvaluation | str]) -> float | None:
    """Return the accuracy of always predicting the most frequent class; None without a confusion matrix."""
    for found in evaluations:
        if isinstance(found, RecordedEvaluation):
            counts = [sum(row) for row in found.confusion]
            return max(counts) / sum(counts) if sum(counts) else None
    return None


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def figure(value: float) -> str:
    """Format a number with three significant digits, or as an integer from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def count(value: int) -> str:
    """Format a number of parameters, such as 11.5 M."""
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.1f} k" if value >= 1e3 else str(value)


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def initial_weights(pretrained: str) -> str:
    """Return the label of a model's initial weights; paths are not shown."""
    return "from scratch" if pretrained == "scratch" else "pretrained" if "/" in pretrained else pretrained


def _charts(rows: Sequence[BenchmarkRow], runs: Sequence[Path], chance: float | None) -> list[Chart]:
    accuracies = [read_curve(run, kind="evaluation", value="accuracy") for run in runs]
    losses = [read_curve(run, kind="train", value="loss") for run in runs]
    names = [row.title for row in rows]
    shares = Axes(x="epoch", y="accuracy", percent=True, level=chance)
    return [
        _chart("Accuracy on the validation clips", names, accuracies, shares),
        _chart("Loss in training", names, losses, Axes(x="epoch", y="cross-entropy")),
    ]


def _pretraining_chart(run: Path | None) -> Chart:
    title = "Loss in pretraining"
    if run is None:
        return Chart(title=title, missing="No pretraining run belongs to this benchmark.")
    curve = read_curve(run, kind="train", value="loss")
    return _chart(title, [run.name], [curve], Axes(x="epoch", y="mean squared error of hidden patches"))


def _chart(title: str, names: Sequence[str], series: Sequence[Points], axes: Axes) -> Chart:
    empty = [name for name, points in zip(names, series, strict=True) if not points]
    if len(empty) == len(names):
        return Chart(title=title, missing=f"metrics.jsonl has no such values for: {', '.join(names)}.")
    ends = [f"{name} {_describe(points, axes)}" for name, points in zip(names, series, strict=True) if points]
    note = f"No values for: {', '.join(empty)}." if empty else ""
    key = title.lower().replace(" ", "-")
    return Chart(title=title, description="; ".join(ends), note=note, svg=Markup(draw(key, series, axes)))


def _describe(points: Points, axes: Axes) -> str:
    first, last = points[0][1], points[-1][1]
    if axes.percent:
        return f"from {percent(first)} to {percent(last)}"
    return f"from {first:.3g} to {last:.3g}"


def _matrix(row: BenchmarkRow, found: RecordedEvaluation | str) -> Matrix:
    if isinstance(found, str):
        return Matrix(title=row.title, missing=f"{found} ({row.run})")
    names = found.classes
    cells = [
        (line[j], names[i], names[j]) for i, line in enumerate(found.confusion) for j in range(len(names)) if i != j
    ]
    largest = sorted((cell for cell in cells if cell[0]), reverse=True)[:MAX_CONFUSIONS]
    return Matrix(
        title=row.title, evaluation=found, confusions=[(true, predicted, clips) for clips, true, predicted in largest]
    )


def _reconstructions(pretraining: Path | None) -> dict[str, Any]:
    """Return `images` (data URIs by name), `skipped` (number of images left out) and `missing` (why there are none)."""
    if pretraining is None:
        return {"images": {}, "skipped": 0, "missing": "No pretraining run belongs to this benchmark."}
    found = read_visualizations(pretraining)
    shown = dict(list(found.items())[:MAX_IMAGES])
    uris = {name: f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in shown.items()}
    missing = "" if found else f"The pretraining run {pretraining.name} has no images in reconstructions/."
    return {"images": uris, "skipped": len(found) - len(shown), "missing": missing}


def _environment(found: dict[str, Any]) -> dict[str, str]:
    """Return the facts needed to judge speed and reproduce a run, without private data such as host or user names."""
    packages = found.get("packages") or {}
    git = found.get("git") or {}
    changed = f", {git['changed_files']} files changed" if git.get("changed_files") else ""
    facts = {
        "Machine": ", ".join(
            filter(None, [", ".join(found.get("devices") or []), f"{found['cpus']} CPUs" if found.get("cpus") else ""])
        ),
        "System": found.get("system"),
        "Processes": found.get("processes"),
        "Python": found.get("python"),
        "Packages": ", ".join(f"{name} {version}" for name, version in packages.items() if version),
        "Code": f"commit {git['commit'][:12]}{changed}" if git.get("commit") else None,
    }
    return {name: str(value) for name, value in facts.items() if value}


def rewrite(folder: Path, *, pretraining: str | None = None) -> Path:
    """Regenerate FOLDER/report.html from its files.

    `pretraining`, relative to FOLDER, replaces the recorded pretraining run.

    Raises:
        ReportError: see `write`.
    """
    about = None
    if pretraining is not None:
        about = About(**{**vars(About.read(folder)), "pretraining": pretraining})
    return write(folder, about=about)
