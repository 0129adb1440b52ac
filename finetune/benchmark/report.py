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
import numpy as np
from markupsafe import Markup

from finetune.benchmark.charts import (
    Chart,
    alarm_chart,
    cost_charts,
    draw_chart,
    label_chart,
    read_curve,
    score_charts,
    training_charts,
)
from finetune.benchmark.curves import DASHES, SERIES, Axes
from finetune.benchmark.pictures import read_pictures
from finetune.benchmark.results import About, read_rows, validated
from finetune.benchmark.summary import Model, Pair, compare, on_all_labels, summarize
from finetune.benchmark.tables import TextTable, count, figure, initial_weights, markdown, percent, tables
from videomae.core.files import write_atomic
from videomae.core.progress import duration

PAGE = "report.html"
MAX_CLASSES = 12  # with more classes, the report lists the most frequent confusions instead of the matrix
MAX_IMAGES = 6
MAX_CONFUSIONS = 10


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The confusion matrix of a model's first seed; without predictions it has no classes."""

    title: str
    run: str
    classes: tuple[str, ...] = ()
    counts: Sequence[Sequence[int]] = ()  # of clips, by true class (rows) and predicted class (columns)

    @property
    def confusions(self) -> list[tuple[int, str, str]]:
        """The most frequent ones: number of clips, true class, predicted class."""
        cells = [
            (clips, self.classes[true], self.classes[predicted])
            for true, line in enumerate(self.counts)
            for predicted, clips in enumerate(line)
            if clips and true != predicted
        ]
        return sorted(cells, reverse=True)[:MAX_CONFUSIONS]


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
    whole = on_all_labels(models)
    runs = [folder / model.first.run for model in whole]
    chance = majority_accuracy(whole)
    pretraining = folder / about.pretraining if about.pretraining else None
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
        charts=[
            *cost_charts(whole, chance),
            *training_charts(folder, whole, chance),
            *score_charts(whole),
            *filter(None, [alarm_chart(runs, [model.title for model in whole]), label_chart(models, chance)]),
        ],
        pairs=pairs,
        pretraining=_pretraining_chart(pretraining),
        matrices=[_matrix(model) for model in whole],
        max_classes=MAX_CLASSES,
        pictures={kind: _uris(read_pictures(folder, kind), "jpeg") for kind in ("hardest", "attention")},
        reconstructions=_reconstructions(pretraining),
        environment=_environment([folder, *runs]),
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
    filters = (percent, count, duration, figure, initial_weights)
    page.filters |= {function.__name__: function for function in filters}
    return page


def majority_accuracy(models: Sequence[Model]) -> float | None:
    """Return the accuracy of always predicting the most frequent class; None without predictions."""
    for model in models:
        if model.predictions:
            labels_S = model.predictions[0].labels_S
            return float(np.bincount(labels_S).max() / len(labels_S))
    return None


def _matrix(model: Model) -> Matrix:
    title, run = model.title, model.first.run
    if not model.predictions:
        return Matrix(title=title, run=run)
    first = model.predictions[0]
    return Matrix(title=title, run=run, classes=first.classes, counts=first.confusion)


def _pretraining_chart(run: Path | None) -> Chart:
    title = "Loss in pretraining"
    if run is None:
        return Chart(title=title, missing="No pretraining run belongs to this benchmark.")
    curve = read_curve(run, kind="train", value="loss")
    return draw_chart(title, [run.name], [curve], Axes(x="epoch", y="mean squared error of hidden patches"))


def _reconstructions(pretraining: Path | None) -> dict[str, str]:
    """Data URIs by name."""
    files = sorted((pretraining / "reconstructions").glob("*.png")) if pretraining is not None else []
    return _uris({file.stem: file.read_bytes() for file in files[:MAX_IMAGES]}, "png")


def _uris(images: dict[str, bytes], kind: str) -> dict[str, str]:
    """Data URIs by caption."""
    return {name: f"data:image/{kind};base64,{base64.b64encode(data).decode()}" for name, data in images.items()}


def _environment(folders: Sequence[Path]) -> dict[str, str]:
    """The facts of the first environment.json needed to judge speed and reproduce a run, without host or user names."""
    files = [folder / "environment.json" for folder in folders]
    found: dict[str, Any] = next((validated(dict[str, Any], file) for file in files if file.is_file()), {})
    git, packages = found.get("git") or {}, found.get("packages") or {}
    changed = f", {git['changed_files']} files changed" if git.get("changed_files") else ""
    cpus = [f"{found['cpus']} CPUs"] if found.get("cpus") else []
    facts = {
        "Machine": ", ".join([*(found.get("devices") or []), *cpus]),
        "System": found.get("system"),
        "Processes": found.get("processes"),
        "Python": found.get("python"),
        "Packages": ", ".join(f"{name} {version}" for name, version in packages.items() if version),
        "Code": f"commit {git['commit'][:12]}{changed}" if git.get("commit") else None,
    }
    return {name: str(value) for name, value in facts.items() if value}
