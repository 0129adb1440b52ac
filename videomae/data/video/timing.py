"""When each frame of a video is shown, and which frames a lower or constant frame rate takes.

Containers round times to milliseconds, skip frames, or hold them. Times that lie on the grid of a constant rate, with
or without gaps, are snapped to it, so that half of the rate takes every second frame. All others are taken as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

MAX_RATE = 1000
_DEFAULT_RATE = Fraction(25)  # FFmpeg's, of a stream that declares none
_TOLERANCE = 0.2  # of a frame's duration: how far a time may lie from the grid of a constant rate
_SLACK = Fraction(1, 1000)  # seconds by which a variable rate's times may be rounded up
_STANDARD = sorted(
    {Fraction(rate) for rate in (5, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 240)}
    | {Fraction(1000 * rate, 1001) for rate in (15, 24, 30, 48, 60, 120, 240)}
    | {Fraction(15, 2), Fraction(25, 2)}
)
_Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The start of each frame in display order, in ticks of `unit` seconds from the first, and the end of the last.

    `rate` is the constant rate whose grid the starts lie on. If there is none, it is that of the closest frames.
    """

    starts: list[int]
    end: Fraction
    unit: Fraction
    rate: Fraction
    slack: int = 0

    @property
    def mean_rate(self) -> Fraction:
        """Frames per second on average; `rate` if no frame is held longer than others."""
        return len(self.starts) / (self.end * self.unit)

    def repeats(self, fps: Fraction) -> list[int]:
        """How often each frame is shown at `fps` frames per second: at time k / fps, the frame that is shown then.

        The sum is the duration times `fps`, rounded up.
        """
        scale = self.unit * fps
        edges = [-(-(tick - self.slack) * scale.numerator // scale.denominator) for tick in self.starts]
        edges = [max(0, edge) for edge in (*edges, math.ceil((self.end - self.slack) * scale))]
        edges[-1] = max(1, *edges[-2:])
        return [after - before for before, after in itertools.pairwise(edges)]


def timeline(ticks: Sequence[int], last: int, unit: Fraction, declared: Iterable[Fraction | None] = ()) -> Timeline:
    """Find the timeline of frames at `ticks` of `unit` seconds, in order; `last` is the last one's duration, or 0.

    `declared` holds the rates that the container claims, which are used only where the times agree.
    """
    claims = [rate for rate in declared if rate and 0 < rate <= MAX_RATE]
    starts = [tick - ticks[0] for tick in ticks]
    if starts[-1] == 0:  # a single time
        rate = next(iter(claims), _DEFAULT_RATE)
        return Timeline(starts=starts, end=_length(last * unit * rate), unit=1 / rate, rate=rate)
    seconds = np.asarray(starts, np.float64) * float(unit)
    intervals = np.diff(seconds)
    intervals = intervals[intervals > 0]
    rate = next(_fitting_rates(seconds, intervals, claims), None)
    if rate is not None:
        slots = _slots(seconds, rate).tolist()
        return Timeline(starts=slots, end=slots[-1] + _length(last * unit * rate), unit=1 / rate, rate=rate)
    closest, median = (float(np.quantile(intervals, part, method="lower")) for part in (0.1, 0.5))
    end = Fraction(starts[-1] + (last or max(1, round(median / float(unit)))))
    rate = min(_nearest_standard(1 / closest), Fraction(MAX_RATE))
    return Timeline(starts=starts, end=end, unit=unit, rate=rate, slack=int(_SLACK / unit))


def _length(frames: Fraction) -> Fraction:
    """The duration of the last frame in frames, snapped to whole ones; 1 if it is not known."""
    nearest = max(1, round(frames))
    return Fraction(nearest) if frames == 0 or abs(frames - nearest) <= _TOLERANCE else frames


def _fitting_rates(seconds: _Seconds, intervals: _Seconds, claims: Sequence[Fraction]) -> Iterator[Fraction]:
    """Yield the constant rates on whose grid all times lie, the likeliest first."""
    closest, median = (float(np.quantile(intervals, part, method="lower")) for part in (0.1, 0.5))
    for rate in claims:
        if rate * closest < 1 + _TOLERANCE and _misfit(seconds, rate) <= _TOLERANCE:
            yield rate
    fits = [len(intervals) / float(seconds[-1])]
    fits += [1 / float(intervals[np.abs(intervals / typical - 1) < _TOLERANCE].mean()) for typical in (median, closest)]
    for fitted in fits:
        slots = max(1.0, float(np.rint(seconds[-1] * fitted)))
        candidates = [rate for rate in _STANDARD if abs(float(rate) / fitted - 1) < 0.02]
        candidates.sort(key=lambda rate: _misfit(seconds, rate))
        candidates += [_rational(fitted), _rational(slots / float(seconds[-1]))]
        for rate in candidates:
            if 0 < rate <= MAX_RATE and _misfit(seconds, rate) <= _TOLERANCE:
                yield rate


def _slots(seconds: _Seconds, rate: Fraction) -> npt.NDArray[np.int64]:
    """The number of each time on the grid of `rate`."""
    places = seconds * float(rate)
    slots = np.rint(places - np.median(places - np.rint(places))).astype(np.int64)
    return slots - slots[0]


def _misfit(seconds: _Seconds, rate: Fraction) -> float:
    """How far the times lie from the grid of `rate`, at most, in frames; infinite if two share a place."""
    slots = _slots(seconds, rate)
    if (np.diff(slots) < 1).any():
        return float("inf")
    away = seconds * float(rate) - slots
    return float(np.abs(away - np.median(away)).max())


def _nearest_standard(rate: float) -> Fraction:
    nearest = min(_STANDARD, key=lambda standard: abs(float(standard) / rate - 1))
    return nearest if abs(float(nearest) / rate - 1) < 0.05 else _rational(rate)


def _rational(rate: float) -> Fraction:
    return Fraction(rate).limit_denominator(1001) if rate > 1 else 1 / Fraction(1 / rate).limit_denominator(1001)
