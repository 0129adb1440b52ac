"""Render a benchmark as one self-contained HTML page: `videomae report FOLDER` writes FOLDER/report.html.

The report is generated from the files of the benchmark and its runs, so it can be regenerated at any time. Where a file
is missing, the report says so. All resources are inlined, a content security policy forbids requests, and all text is
escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune.benchmark.charts import (
    Chart,
    alarm_chart,
    cost_charts,
    label_chart,
    line_chart,
    score_charts,
    training_charts,
)
from finetune.benchmark.curves import DASHES, SERIES, Axes
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
from finetune.benchmark.summary import Model, Pair, compare, summarize
from finetune.benchmark.tables import (
    TextTable,
    count,
    figure,
    initial_weights,
    markdown,
    percent,
    tables,
)
from videomae.core.files import write_atomic
from videomae.core.progress import duration

PAGE = "report.html"
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


def write(folder: Path, *, about: About | None = None, pretraining: str | None = None) -> list[TextTable]:
    """Write FOLDER/report.html and FOLDER/report.md from FOLDER/benchmark.json and its runs; return the tables.

    `about` is saved as about.json; if it is None, the saved about.json is used. `pretraining`, relative to FOLDER,
    replaces the pretraining run in it.

    Raises:
        ReportError: benchmark.json is missing, or benchmark.json or about.json is invalid.
    """
    rows = read_rows(folder)
    known = about or About.read(folder)
    if pretraining is not None:
        known = replace(known, pretraining=pretraining)
    if about is not None or pretraining is not None:
        known.save(folder)
    models = summarize(folder, rows)
    pairs = compare([model for model in models if model.first.labels == "all"])
    found = tables(models, pairs, known)
    write_atomic(folder / PAGE, render(folder, models, known, pairs, found))
    write_atomic(folder / "report.md", markdown(found, known))
    return found


def render(
    folder: Path, models: Sequence[Model], about: About, pairs: Sequence[Pair], text: Sequence[TextTable]
) -> str:
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
        text={table.title: table for table in text},
        cost=cost_charts(whole, chance),
        training=training_charts(folder, whole, chance),
        scores=score_charts(whole) if any(model.predictions for model in whole) else [],
        few=few,
        pairs=pairs,
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
    }
    return page


def majority_accuracy(evaluations: Sequence[RecordedEvaluation | str]) -> float | None:
    """Return the accuracy of always predicting the most frequent class; None without a confusion matrix."""
    for found in evaluations:
        if isinstance(found, RecordedEvaluation):
            counts = [sum(row) for row in found.confusion]
            return max(counts) / sum(counts) if sum(counts) else None
    return None


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
