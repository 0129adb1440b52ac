"""Draw charts as inline SVG that inherits the font, colours and light or dark scheme of the page.

Matplotlib draws with placeholder colours, which are then replaced by CSS variables of the page. Charts contain no user
text, because the legend is part of the page. The output is deterministic: equal points give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.axes
import numpy as np
from matplotlib.figure import Figure

SERIES = 8  # number of series colours that the page defines, --series-0 to --series-7
DASHES = ("", "6 2.2", "1.6 1.6", "7 2 1.6 2", "3.2 1.4")  # dash patterns that distinguish series in addition to colour
MAX_POINTS = 100
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

Points = Sequence[tuple[float, ...]]  # x and y, or x, y and the ends of y's interval


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Axes of a chart.

    `percent` and `percent_x` format values in [0, 1] as 0 to 100 %. `level` is the y value of a dashed reference line,
    `diagonal` draws one from corner to corner. `log_x` has a logarithmic x axis. With `ticks_at_points`, x is labelled
    at the points.
    """

    x: str
    y: str
    percent: bool = False
    percent_x: bool = False
    level: float | None = None
    diagonal: bool = False
    log_x: bool = False
    ticks_at_points: bool = False


def draw(name: str, series: Sequence[Points], axes: Axes) -> str:
    """Draw `series` as an `<svg>` element, series i in colour i; `name` makes its element ids unique in the page.

    A line joins the points of a series, which is thinned if it has more than MAX_POINTS.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.0, 2.9), layout="constrained")
        plot = figure.add_subplot()
        plot.grid(axis="y")
        plot.set_axisbelow(True)
        plot.tick_params(length=0, which="both")
        for number, points in enumerate(series):
            _draw_series(plot, number, thin(points))
        _dress(plot, axes)
        if axes.ticks_at_points:
            plot.set_xticks(sorted({point[0] for points in series for point in points}))
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(name, file.getvalue())


def thin(points: Points) -> Points:
    """Reduce to at most MAX_POINTS points, each the mean of consecutive points."""
    if len(points) <= MAX_POINTS:
        return points
    length = -(-len(points) // MAX_POINTS)
    return [tuple(np.mean(points[start : start + length], axis=0)) for start in range(0, len(points), length)]


def _draw_series(plot: matplotlib.axes.Axes, number: int, points: Points) -> None:
    colour, dashes = f"#5e000{number % SERIES}", [float(part) for part in DASHES[number % len(DASHES)].split()]
    intervals = [point for point in points if len(point) == 4]
    for x, _, low, high in intervals:
        plot.plot([x, x], [low, high], color=colour, linewidth=1.2, alpha=0.55, solid_capstyle="butt")
    plot.plot(
        [point[0] for point in points],
        [point[1] for point in points],
        color=colour,
        linewidth=1.8,
        linestyle=(0, dashes) if dashes else "-",
        solid_capstyle="round",
        marker="o" if len(points) == 1 or intervals else "",
    )


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
