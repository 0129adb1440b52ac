"""What pretraining gains in the demo, as one picture: accuracy against labels a class, and against clips seen.

    python -m benchmarks.demo_curves runs/demo_labels docs/demo_curves.svg --pretraining RUN RUN RUN [--json]

The left panel shows every row of a benchmark with `labels: {per_class: [...]}`; the right one the evaluations that
`monitor` logged in pretraining runs that differ in the seed, each run and their mean. Points at one number of labels
are drawn side by side, so that their intervals can be told apart.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import matplotlib.axes
from matplotlib.figure import Figure

from finetune.benchmark.results import read_rows
from finetune.benchmark.summary import Model, summarize
from videomae.command import guarded
from videomae.core.errors import UserError
from videomae.core.files import write_atomic
from videomae.run.directory import RunDirectory
from videomae.run.metrics import read_metrics

COLOURS = ("#0b5fc0", "#c2410c", "#15803d", "#8b2fc9", "#b81d4a", "#0e7490", "#8a6100", "#55524e", "#d0779f")
MARKERS = "osD^v<>PX"
_SPREAD = 0.02  # between the rows at one number of labels, as a share of it


@dataclass(frozen=True)
class LabelPoint:
    """A row's accuracy from some labels a class, with its 95 % interval."""

    title: str
    labels_per_class: int
    accuracy: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class ClipsPoint:
    """An encoder's accuracy after some clips of pretraining, with its 95 % interval."""

    run: str
    clips: int
    accuracy: float
    low: float
    high: float


def label_points(folder: Path, models: Sequence[Model]) -> list[LabelPoint]:
    """The points of the few-label curve of the benchmark in `folder`, those of a row in a sequence.

    Raises:
        UserError: the benchmark has no results by number of labels.
    """
    points = [
        LabelPoint(model.title, number, model.accuracy, *model.interval, len(model.rows))
        for model in models
        if (number := model.first.labels_per_class) is not None
    ]
    if len({point.labels_per_class for point in points}) < 2:
        raise UserError(f"{folder} has no curve over labels; run a benchmark with labels='{{per_class: [2, 5]}}'")
    order = list(dict.fromkeys(point.title for point in points))
    return sorted(points, key=lambda point: (order.index(point.title), point.labels_per_class))


def clips_points(run: Path) -> list[ClipsPoint]:
    """The evaluations of a pretraining run with `monitor`. Raises UserError if it has none."""
    found = [
        ClipsPoint(run.name, line["clips"], line["accuracy"], line["low"], line["high"])
        for line in read_metrics(RunDirectory(run).metrics)
        if isinstance(line, dict) and line.get("kind") == "evaluation"
    ]
    if not found:
        raise UserError(f"{run} has no evaluations; pretrain with monitor='{{every: 16000 clips, config: CONFIG}}'")
    return found


def draw(labels: Sequence[LabelPoint], clips: Sequence[ClipsPoint], *, chance: float | None) -> str:
    """Both panels as an SVG file; the second only if there are evaluations. A line shows the chance, if it is known."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "videomae", "font.size": 9}):
        figure = Figure(figsize=(10.0 if clips else 5.6, 4.2), layout="constrained", facecolor="white")
        plots = figure.subplots(1, 2 if clips else 1, squeeze=False)[0]
        _draw_labels(plots[0], labels)
        if clips:
            _draw_clips(plots[1], clips)
        for plot in plots:
            if chance is not None:
                plot.axhline(chance, color="#55524e", linewidth=0.9, linestyle=(0, (2, 3)))
            plot.set_ylim(0, 1)
            plot.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
            plot.set_ylabel("accuracy")
            plot.grid(axis="y", linewidth=0.4)
            plot.spines[["top", "right"]].set_visible(False)
        figure.legend(*plots[0].get_legend_handles_labels(), loc="outside lower left", ncols=4, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _draw_labels(plot: matplotlib.axes.Axes, points: Sequence[LabelPoint]) -> None:
    titles = list(dict.fromkeys(point.title for point in points))
    for number, title in enumerate(titles):
        own = [point for point in points if point.title == title]
        shift = 1 + _SPREAD * (number - (len(titles) - 1) / 2)
        x, y = [point.labels_per_class * shift for point in own], [point.accuracy for point in own]
        errors = [[point.accuracy - point.low for point in own], [point.high - point.accuracy for point in own]]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
        plot.errorbar(x, y, errors, label=title, linewidth=1.4, elinewidth=0.9, **style)
    plot.set_xscale("log")
    plot.set_xticks(sorted({point.labels_per_class for point in points}))
    plot.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    plot.minorticks_off()
    plot.set_xlabel("labelled clips a class")


def _draw_clips(plot: matplotlib.axes.Axes, points: Sequence[ClipsPoint]) -> None:
    for run in dict.fromkeys(point.run for point in points):
        own = [point for point in points if point.run == run]
        x, y = [point.clips for point in own], [point.accuracy for point in own]
        errors = [[point.accuracy - point.low for point in own], [point.high - point.accuracy for point in own]]
        plot.errorbar(x, y, errors, color="#8a8a8a", linewidth=0.9, elinewidth=0.6, marker="o", markersize=3)
    by_clips = {clips: [point.accuracy for point in points if point.clips == clips] for clips in _clips(points)}
    plot.plot(list(by_clips), [statistics.fmean(each) for each in by_clips.values()], color=COLOURS[0], linewidth=1.8)
    plot.set_xlim(left=0)
    plot.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g} k" if value else "0")
    plot.set_xlabel("clips seen in pretraining (each seed, and their mean)")


def _clips(points: Sequence[ClipsPoint]) -> list[int]:
    return sorted({point.clips for point in points})


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_curves", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("labels", type=Path, help="folder of a benchmark with a curve over labels")
    parser.add_argument("out", type=Path, help="of the picture, an SVG file")
    parser.add_argument("--pretraining", type=Path, nargs="+", default=[], help="runs with monitor")
    parser.add_argument("--json", action="store_true", help="print the points as JSON, alone")
    return guarded(lambda: _run(parser.parse_args(words)))


def _run(options: argparse.Namespace) -> None:
    models = summarize(options.labels, read_rows(options.labels))
    labels = label_points(options.labels, models)
    clips = [point for run in options.pretraining for point in clips_points(run)]
    classes = next((len(each.classes) for model in models for each in model.predictions), None)
    write_atomic(options.out, draw(labels, clips, chance=None if classes is None else 1 / classes))
    if options.json:
        found = {"labels": [asdict(point) for point in labels], "clips": [asdict(point) for point in clips]}
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for point in labels:
        accuracy = f"{point.accuracy:6.1%} ({point.low:.1%} to {point.high:.1%})"
        sys.stdout.write(
            f"{point.title:40}{point.labels_per_class:3} labels a class: {accuracy}, {point.seeds} seeds\n"
        )
    for each in clips:
        sys.stdout.write(
            f"{each.run:40}{each.clips:8,} clips: {each.accuracy:6.1%} ({each.low:.1%} to {each.high:.1%})\n"
        )


if __name__ == "__main__":
    sys.exit(main())
