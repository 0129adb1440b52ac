"""Render a benchmark as one self-contained HTML page: `videomae report FOLDER` writes FOLDER/report.html.

The report is generated from the files of the benchmark and its runs, so it can be regenerated at any time. Where a file
is missing, the report says so. All resources are inlined, a content security policy forbids requests, and all text is
escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune.benchmark.alarms import alarm_chart
from finetune.benchmark.charts import (
    Chart,
    cost_charts,
    label_chart,
    line_chart,
    percent,
    score_charts,
    training_charts,
)
from finetune.benchmark.curves import DASHES, SERIES, Axes
from finetune.benchmark.markdown import METRICS, duration, figure, initial_weights, markdown
from finetune.benchmark.pictures import read_pictures
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
from finetune.benchmark.summary import Model, compare, summarize
from videomae.core.files import write_atomic

MAX_CLASSES = 12  # with more classes, the report lists the most frequent confusions instead of the matrix
MAX_IMAGES = 6
MAX_CONFUSIONS = 10


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The confusion matrix of a row, or in `missing` why there is none; `confusions` are (true, predicted, clips)."""

    title: str
    evaluation: RecordedEvaluation | None = None
    confusions: Sequence[tuple[str, str, int]] = ()
    missing: str = ""


def write(folder: Path, *, about: About | None = None) -> Path:
    """Write FOLDER/report.html and FOLDER/report.md from FOLDER/benchmark.json and its runs; return the page's path.

    `about` is saved as about.json; if it is None, the saved about.json is used.

    Raises:
        ReportError: benchmark.json is missing, or benchmark.json or about.json is invalid.
    """
    rows = read_rows(folder)
    if about is not None:
        about.save(folder)
    known = about or About.read(folder)
    models = summarize(folder, rows)
    page = folder / "report.html"
    write_atomic(page, render(folder, models, known))
    write_atomic(folder / "report.md", markdown(models, known))
    return page


def render(folder: Path, models: Sequence[Model], about: About) -> str:
    """Render the report as HTML."""
    whole = [model for model in models if model.first.labels == "all"] or list(models)
    runs = [folder / model.first.run for model in whole]
    evaluations = [read_evaluation(run) for run in runs]
    chance = majority_accuracy(evaluations)
    pretraining = folder / about.pretraining if about.pretraining else None
    few = label_chart(models, chance)
    pictures = {kind: _uris(read_pictures(folder, kind), "jpeg") for kind in ("hardest", "attention")}
    page = _page()
    script = page.get_template("sort.js").render()
    return page.get_template("report.html.jinja").render(
        about=about,
        models=whole,
        best=max(whole, key=lambda model: model.accuracy),
        chance=chance,
        dashes=DASHES,
        series=SERIES,
        metrics=[name for name in METRICS if any(model.metric(name) is not None for model in whole)],
        cost=cost_charts(whole, chance),
        training=training_charts(folder, whole, chance),
        scores=score_charts(whole) if any(model.predictions for model in whole) else [],
        few=few,
        cross={name: shards for name, shards in about.evaluate_on.items() if any(m.cross(name) for m in whole)},
        pairs=compare(whole),
        alarms=alarm_chart(runs, [model.title for model in whole]),
        pretraining=_pretraining_chart(pretraining),
        matrices=[_matrix(model.first, found) for model, found in zip(whole, evaluations, strict=True)],
        max_classes=MAX_CLASSES,
        pictures=pictures,
        reconstructions=_reconstructions(pretraining),
        environment=_environment(read_environment([folder, *runs])),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _page() -> jinja2.Environment:
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {
        "percent": percent,
        "count": count,
        "duration": duration,
        "figure": figure,
        "initial_weights": initial_weights,
        "p_value": p_value,
    }
    return page


def majority_accuracy(evaluations: Sequence[RecordedEvaluation | str]) -> float | None:
    """Return the accuracy of always predicting the most frequent class; None without a confusion matrix."""
    for found in evaluations:
        if isinstance(found, RecordedEvaluation):
            counts = [sum(row) for row in found.confusion]
            return max(counts) / sum(counts) if sum(counts) else None
    return None


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(value: int) -> str:
    """Format a number of parameters, such as 11.5 M."""
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.1f} k" if value >= 1e3 else str(value)


def _pretraining_chart(run: Path | None) -> Chart:
    title = "Loss in pretraining"
    if run is None:
        return Chart(title=title, missing="No pretraining run belongs to this benchmark.")
    curve = read_curve(run, kind="train", value="loss")
    return line_chart(title, [run.name], [curve], Axes(x="epoch", y="mean squared error of hidden patches"))


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
    uris = _uris(shown, "png")
    missing = "" if found else f"The pretraining run {pretraining.name} has no images in reconstructions/."
    return {"images": uris, "skipped": len(found) - len(shown), "missing": missing}


def _uris(images: dict[str, bytes], kind: str) -> dict[str, str]:
    """Data URIs by caption."""
    return {name: f"data:image/{kind};base64,{base64.b64encode(data).decode()}" for name, data in images.items()}


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
