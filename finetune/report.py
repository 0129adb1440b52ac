"""The benchmark as one self-contained HTML page: `videomae report FOLDER` writes FOLDER/report.html.

Reads what the runs left on disk, so a page can be made again at any time. A missing piece is named where it would
stand. Everything is inlined, the page forbids itself every request, and all texts are escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune.curves import DASHES, SERIES, Axes, Points, draw
from finetune.results import (
    About,
    Evaluation,
    Row,
    read_curve,
    read_environment,
    read_evaluation,
    read_rows,
    read_visualizations,
)
from videomae.core.files import write_atomic

MOST_CLASSES = 12  # larger confusion matrices are told by their most frequent mistakes
MOST_PANELS = 6
MOST_MISTAKES = 10


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawn chart, or `missing`: why there is none. `told` says in words what the lines show, `note` what is not."""

    title: str
    told: str = ""
    note: str = ""
    svg: Markup | None = None
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The confusion matrix of a row, or `missing`: why there is none. `mistakes` are (true, predicted, clips)."""

    title: str
    evaluation: Evaluation | None = None
    mistakes: Sequence[tuple[str, str, int]] = ()
    missing: str = ""


def write(folder: Path, *, about: About | None = None) -> Path:
    """Make FOLDER/report.html from FOLDER/benchmark.json and the runs it names; returns the page's path.

    `about` is kept as about.json for the next time; without it the one kept is used.

    Raises:
        ReportError: benchmark.json or about.json cannot be used.
    """
    rows = read_rows(folder)
    if about is not None:
        about.save(folder)
    page = folder / "report.html"
    write_atomic(page, render(folder, rows, about or About.read(folder)))
    return page


def render(folder: Path, rows: Sequence[Row], about: About) -> str:
    """The page's text: a function of what stands on disk."""
    evaluations = [read_evaluation(folder / row.run) for row in rows]
    runs = [folder / row.run for row in rows]
    pretraining = folder / about.pretraining if about.pretraining else None
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page.filters |= {"percent": percent, "count": count, "duration": duration, "figure": figure, "start": start_of}
    return page.get_template("report.html.jinja").render(
        about=about,
        rows=rows,
        best=max(rows, key=lambda row: row.accuracy),
        chance=majority(evaluations),
        dashes=DASHES,
        series=SERIES,
        charts=_charts(rows, runs, majority(evaluations)),
        pretraining=_pretraining_chart(pretraining),
        matrices=[_matrix(row, found) for row, found in zip(rows, evaluations, strict=True)],
        most_classes=MOST_CLASSES,
        panels=_panels(pretraining),
        environment=_environment(read_environment([folder, *runs])),
    )


def majority(evaluations: Sequence[Evaluation | str]) -> float | None:
    """The accuracy of always answering with the most frequent class; None without a confusion matrix."""
    for found in evaluations:
        if isinstance(found, Evaluation):
            counts = [sum(row) for row in found.confusion]
            return max(counts) / sum(counts) if sum(counts) else None
    return None


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def figure(value: float | None) -> str:
    """Three figures, or a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def count(value: int) -> str:
    """A count of parameters: 11.5 M."""
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.1f} k" if value >= 1e3 else str(value)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def start_of(pretrained: str | bool | None) -> str:
    """Where a model's weights started, in words; of a path it says no more than that."""
    if pretrained in (None, False, "", "none", "scratch"):
        return "from scratch"
    return "pretrained" if pretrained is True or "/" in str(pretrained) else str(pretrained)


def _charts(rows: Sequence[Row], runs: Sequence[Path], chance: float | None) -> list[Chart]:
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
    return _chart(title, [run.name], [curve], Axes(x="epoch", y="squared error of hidden cubes"))


def _chart(title: str, names: Sequence[str], series: Sequence[Points], axes: Axes) -> Chart:
    empty = [name for name, points in zip(names, series, strict=True) if not points]
    if len(empty) == len(names):
        return Chart(title=title, missing=f"No such values stand in metrics.jsonl of: {', '.join(names)}.")
    ends = [f"{name} {_tell(points, axes)}" for name, points in zip(names, series, strict=True) if points]
    note = f"Without values: {', '.join(empty)}." if empty else ""
    key = title.lower().replace(" ", "-")
    return Chart(title=title, told="; ".join(ends), note=note, svg=Markup(draw(key, series, axes)))


def _tell(points: Points, axes: Axes) -> str:
    first, last = points[0][1], points[-1][1]
    if axes.percent:
        return f"from {percent(first)} to {percent(last)}"
    return f"from {first:.3g} to {last:.3g}"


def _matrix(row: Row, found: Evaluation | str) -> Matrix:
    if isinstance(found, str):
        return Matrix(title=row.title, missing=f"{found} ({row.run})")
    names = found.classes
    cells = [
        (line[j], names[i], names[j]) for i, line in enumerate(found.confusion) for j in range(len(names)) if i != j
    ]
    worst = sorted((cell for cell in cells if cell[0]), reverse=True)[:MOST_MISTAKES]
    return Matrix(title=row.title, evaluation=found, mistakes=[(true, guess, clips) for clips, true, guess in worst])


def _panels(pretraining: Path | None) -> dict[str, Any]:
    """`pictures`: data URIs by name; `skipped`: how many more there are; `missing`: why there are none."""
    if pretraining is None:
        return {"pictures": {}, "skipped": 0, "missing": "No pretraining run belongs to this benchmark."}
    found = read_visualizations(pretraining)
    shown = dict(list(found.items())[:MOST_PANELS])
    uris = {name: f"data:image/png;base64,{base64.b64encode(data).decode()}" for name, data in shown.items()}
    missing = "" if found else f"The pretraining run {pretraining.name} holds no pictures in reconstructions/."
    return {"pictures": uris, "skipped": len(found) - len(shown), "missing": missing}


def _environment(found: dict[str, Any]) -> dict[str, str]:
    """What a reader needs to judge speed and to repeat a run; nothing private such as host or user names."""
    packages = found.get("packages") or {}
    git = found.get("git") or {}
    changed = f", {git['changed_files']} files changed" if git.get("changed_files") else ""
    told = {
        "Machine": ", ".join(
            filter(None, [", ".join(found.get("devices") or []), f"{found['cpus']} CPUs" if found.get("cpus") else ""])
        ),
        "System": found.get("system"),
        "Processes": found.get("processes"),
        "Python": found.get("python"),
        "Packages": ", ".join(f"{name} {version}" for name, version in packages.items() if version),
        "Code": f"commit {git['commit'][:12]}{changed}" if git.get("commit") else None,
    }
    return {name: str(value) for name, value in told.items() if value}


def rewrite(folder: Path, *, pretraining: str | None = None) -> Path:
    """Write FOLDER/report.html again from its files; `pretraining` replaces the recorded run, relative to FOLDER.

    Raises:
        ReportError: as `write`.
    """
    about = None
    if pretraining is not None:
        about = About(**{**vars(About.read(folder)), "pretraining": pretraining})
    return write(folder, about=about)
