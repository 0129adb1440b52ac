"""Plots in text: a line chart of Braille dots, and one-row sparklines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_BARS = "▁▂▃▄▅▆▇█"
_EMPTY_CELL = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a cell, four rows by two columns


def thin(values: Sequence[float], count: int) -> np.ndarray:
    """At most `count` values: means of the finite values of neighbours; NaN where there is none."""
    finite = np.where(np.isfinite(values), values, np.nan)
    if len(finite) <= count:
        return finite
    parts = np.split(finite, [len(finite) * edge // count for edge in range(1, count)])
    return np.array([np.nan if np.isnan(part).all() else np.nanmean(part) for part in parts])


def sparkline(values: Sequence[float], width: int) -> str:
    """One row of at most `width` bars, from the minimum to the maximum; a gap for a non-finite value."""
    thinned = thin(values, width)
    if np.isnan(thinned).all():
        return " " * len(thinned)
    fractions = _fractions(thinned, np.nanmin(thinned), np.nanmax(thinned))
    return "".join(" " if math.isnan(part) else _BARS[min(int(part * 8), 7)] for part in fractions)


def chart(values: Sequence[float], *, width: int, height: int) -> tuple[list[str], float, float]:
    """Rows of Braille dots from the top down, and the values of the bottom and the top edge.

    The top 2 % of the values, such as those at the start of a run, are clipped.
    """
    thinned = _stretch(thin(values, 2 * width), 2 * width)
    finite = np.sort(thinned[np.isfinite(thinned)])
    if not finite.size:
        return [" " * width] * height, math.nan, math.nan
    low, high = float(finite[0]), float(finite[int(0.98 * (len(finite) - 1))])
    cells = [[_EMPTY_CELL] * width for _ in range(height)]
    previous: int | None = None
    for column, fraction in enumerate(_fractions(np.minimum(thinned, high), low, high)):
        if math.isnan(fraction):
            previous = None
            continue
        row = round((1 - fraction) * (4 * height - 1))
        for crossed in _between(previous, row):
            cells[crossed // 4][column // 2] |= _DOTS[crossed % 4][column % 2]
        previous = row
    return ["".join(map(chr, row)) for row in cells], low, high


def _stretch(values: np.ndarray, count: int) -> np.ndarray:
    """`count` values by linear interpolation between fewer given ones; next to a gap the nearest one."""
    if not 2 <= len(values) < count:
        return values
    positions = np.linspace(0, len(values) - 1, count)
    between = np.interp(positions, np.arange(len(values)), values)
    return np.where(np.isnan(between), values[positions.round().astype(int)], between)


def _fractions(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return 0 * values + 0.5 if math.isclose(low, high, rel_tol=1e-9) else (values - low) / (high - low)


def _between(previous: int | None, row: int) -> range:
    """The rows that a line from the previous point crosses in the new column."""
    if previous is None or previous == row:
        return range(row, row + 1)
    return range(previous + 1, row + 1) if previous < row else range(row, previous)
