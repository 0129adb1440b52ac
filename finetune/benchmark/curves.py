"""Draw line charts as inline SVG that inherits the font, colours and light or dark scheme of the page.

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


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Axes of a chart.

    `percent` formats values in [0, 1] as 0 to 100 %. `level` is the y value of a dashed reference line.
    """

    x: str
    y: str
    percent: bool = False
    level: float | None = None


def draw(name: str, series: Sequence[Points], axes: Axes) -> str:
    """Draw `series` as an `<svg>` element, series i in colour i; `name` makes its element ids unique in the page."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.0, 2.9), layout="constrained")
        plot = figure.add_subplot()
        plot.grid(axis="y")
        plot.set_axisbelow(True)
        plot.tick_params(length=0)
        for number, points in enumerate(series):
            _draw_series(plot, number, thin(points))
        plot.set_xlabel(axes.x)
        plot.set_ylabel(axes.y)
        if axes.percent:
            plot.set_ylim(-0.02, 1.02)
            plot.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        if axes.level is not None:
            plot.axhline(axes.level, color=_INK, linewidth=0.9, linestyle=(0, (2, 3)))
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(name, file.getvalue())


def thin(points: Points) -> list[tuple[float, float]]:
    """Reduce to at most `MAX_POINTS` points, each the mean of consecutive points."""
    length = -(-len(points) // MAX_POINTS)
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
