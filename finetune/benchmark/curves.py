"""Draw charts as inline SVG that inherits the font, colours and light or dark scheme of the page.

Matplotlib draws with placeholder colours, which are then replaced by CSS variables of the page. Charts contain no user
text, because the legend is part of the page. The output is deterministic: equal points give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.axes
from matplotlib.figure import Figure

SERIES = 8  # number of series colours that the page defines, --series-0 to --series-7
DASHES = ("", "6 2.2", "1.6 1.6", "7 2 1.6 2", "3.2 1.4")  # dash patterns that distinguish series in addition to colour
MAX_POINTS = 40
_INK, _GRID = "#5e00aa", "#5e00bb"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "videomae",
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.color": _GRID,
    "ytick.labelcolor": _INK,
}

Points = Sequence[tuple[float, float]]
IntervalPoint = tuple[float, float, float, float]  # x, y, and the interval of y


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Axes of a chart.

    `percent` and `percent_x` format values in [0, 1] as 0 to 100 %. `level` is the y value of a dashed reference line,
    `diagonal` draws one from corner to corner. `log_x` has a logarithmic x axis. With `ticks_at_points`, x is labelled
    at the points with intervals.
    """

    x: str
    y: str
    percent: bool = False
    percent_x: bool = False
    level: float | None = None
    diagonal: bool = False
    log_x: bool = False
    ticks_at_points: bool = False


def draw(name: str, series: Sequence[Points], axes: Axes, *, limit: int = MAX_POINTS) -> str:
    """Draw `series` as an `<svg>` element, series i in colour i; `name` makes its element ids unique in the page.

    A series of more than `limit` points is thinned.
    """
    return _chart(name, axes, lambda plot: _draw_lines(plot, [thin(points, limit) for points in series]))


def draw_intervals(name: str, series: Sequence[Sequence[IntervalPoint]], axes: Axes) -> str:
    """Draw points with their intervals, those of a series joined by a line; otherwise as `draw`."""
    places = sorted({x for points in series for x, *_ in points}) if axes.ticks_at_points else None
    return _chart(name, axes, lambda plot: _draw_intervals(plot, series), places=places)


def _chart(
    name: str, axes: Axes, fill: Callable[[matplotlib.axes.Axes], None], *, places: Sequence[float] | None = None
) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.0, 2.9), layout="constrained")
        plot = figure.add_subplot()
        plot.grid(axis="y")
        plot.set_axisbelow(True)
        plot.tick_params(length=0, which="both")
        fill(plot)
        _dress(plot, axes)
        if places is not None:
            plot.set_xticks(places)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(name, file.getvalue())


def _dress(plot: matplotlib.axes.Axes, axes: Axes) -> None:
    plot.set_xlabel(axes.x)
    plot.set_ylabel(axes.y)
    if axes.log_x:
        plot.set_xscale("log")
        plot.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        plot.xaxis.set_minor_formatter(lambda value, _: "")
    if axes.percent_x:
        if not axes.log_x:
            plot.set_xlim(-0.02, 1.02)
        plot.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    if axes.percent:
        plot.set_ylim(-0.02, 1.02)
        plot.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    if axes.level is not None:
        plot.axhline(axes.level, color=_INK, linewidth=0.9, linestyle=(0, (2, 3)))
    if axes.diagonal:
        plot.plot([0, 1], [0, 1], color=_INK, linewidth=0.9, linestyle=(0, (2, 3)))


def _draw_lines(plot: matplotlib.axes.Axes, series: Sequence[Points]) -> None:
    for number, points in enumerate(series):
        _draw_series(plot, number, points)


def _draw_intervals(plot: matplotlib.axes.Axes, series: Sequence[Sequence[IntervalPoint]]) -> None:
    for number, points in enumerate(series):
        colour = f"#5e000{number % SERIES}"
        for x, _, low, high in points:
            plot.plot([x, x], [low, high], color=colour, linewidth=1.2, alpha=0.55, solid_capstyle="butt")
        _draw_series(plot, number, [(x, y) for x, y, _, _ in points])
        plot.plot([x for x, *_ in points], [y for _, y, *_ in points], color=colour, linestyle="", marker="o")


def thin(points: Points, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """Reduce to at most `limit` points, each the mean of consecutive points."""
    length = -(-len(points) // limit)
    chunks = [points[start : start + length] for start in range(0, len(points), max(1, length))]
    return [(sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]


def _draw_series(plot: matplotlib.axes.Axes, number: int, points: Points) -> None:
    dashes = [float(part) for part in DASHES[number % len(DASHES)].split()]
    plot.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=f"#5e000{number % SERIES}",
        linewidth=1.8,
        linestyle=(0, dashes) if dashes else "-",
        solid_capstyle="round",
        marker="o" if len(points) == 1 else "",
    )


def _inline(name: str, text: str) -> str:
    """Remove the parts only a standalone file needs, make ids unique and replace colours with CSS variables."""
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg, count=1
    )
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"#5e000(\d)", r"var(--series-\1)", svg)
    return svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--line)").strip()
