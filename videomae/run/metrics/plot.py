"""Plots in text: a line chart of Braille dots, and one-row sparklines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_EMPTY_CELL = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a cell, four rows by two columns


def thin(values: Sequence[float], count: int) -> list[float]:
    """At most `count` values: means of the finite values of neighbours; NaN where there is none."""
    if len(values) <= count:
        return list(values)
    edges = [len(values) * edge // count for edge in range(count + 1)]
    return [_mean(values[first:last]) for first, last in itertools.pairwise(edges)]


def sparkline(values: Sequence[float], width: int) -> str:
    """One row of at most `width` bars, from the minimum to the maximum; a gap for a non-finite value."""
    thinned = thin(values, width)
    finite = [value for value in thinned if math.isfinite(value)]
    if not finite:
        return " " * len(thinned)
    low, high = min(finite), max(finite)
    flat = math.isclose(low, high, rel_tol=1e-9)
    return "".join(_bar((value - low) / (high - low) if not flat else 0.0 * value + 0.5) for value in thinned)


def chart(values: Sequence[float], *, width: int, height: int) -> tuple[list[str], float, float]:
    """Rows of Braille dots from the top down, and the values of the bottom and the top edge.

    The top 2 % of the values, such as those at the start of a run, are clipped.
    """
    thinned = _stretch(thin(values, 2 * width), 2 * width)
    finite = sorted(value for value in thinned if math.isfinite(value))
    if not finite:
        return [" " * width] * height, math.nan, math.nan
    low, high = finite[0], finite[int(0.98 * (len(finite) - 1))]
    cells = [[_EMPTY_CELL] * width for _ in range(height)]
    previous: int | None = None
    for column, value in enumerate(thinned):
        if not math.isfinite(value):
            previous = None
            continue
        row = _row(value, low, high, rows=4 * height)
        for crossed in _between(previous, row):
            cells[crossed // 4][column // 2] |= _DOTS[crossed % 4][column % 2]
        previous = row
    return ["".join(map(chr, row)) for row in cells], low, high


def _stretch(values: Sequence[float], count: int) -> list[float]:
    """`count` values by linear interpolation between fewer given ones; next to a gap the nearest one."""
    if len(values) < 2 or len(values) >= count:
        return list(values)
    return [_at(values, column * (len(values) - 1) / (count - 1)) for column in range(count)]


def _at(values: Sequence[float], position: float) -> float:
    left, right = values[math.floor(position)], values[math.ceil(position)]
    if math.isfinite(left) and math.isfinite(right):
        return left + (position % 1) * (right - left)
    return values[round(position)]


def _row(value: float, low: float, high: float, *, rows: int) -> int:
    fraction = (min(value, high) - low) / (high - low) if high > low else 0.5
    return round((1 - fraction) * (rows - 1))


def _between(previous: int | None, row: int) -> range:
    """The rows that a line from the previous point crosses in the new column."""
    if previous is None or previous == row:
        return range(row, row + 1)
    return range(previous + 1, row + 1) if previous < row else range(row, previous)


def _bar(fraction: float) -> str:
    return _BARS[min(len(_BARS) - 1, int(fraction * len(_BARS)))] if math.isfinite(fraction) else " "


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
