"""Alarms from a sequence of scores: with hysteresis, a minimal duration, and a threshold by false alarms a day."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from videomae.core.errors import UserError

DAY = 86400.0
OFF_RATIO = 0.8  # of a threshold that is chosen by false alarms: where an alarm ends
_CANDIDATES = 500  # thresholds that are tried
_CONTINUES = 1.001  # two windows further apart than the longer of them do not belong to one alarm


class TimedScore(NamedTuple):
    """The score of the alarm's class from `start` to `end`, in seconds."""

    start: float
    end: float
    score: float


@dataclass(frozen=True)
class AlarmRule:
    """An alarm begins when scores from `on` have lasted for `seconds`, and ends with the first score below `off`.

    `seconds` is counted between the ends of windows: 0 lets one window raise an alarm. While it lasts, scores from
    `off` are enough.
    """

    on: float
    off: float
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.off <= self.on <= 1 or self.seconds < 0:
            raise UserError(
                f"got alarms from {self.on:g} to {self.off:g} after {self.seconds:g} s; wanted 0 <= off <= on <= 1"
            )


@dataclass(frozen=True)
class AlarmConfig:
    """The class that raises alarms, and the rule."""

    name: str
    rule: AlarmRule


@dataclass(frozen=True)
class Alarm:
    """A period of alarm: the start of its first window, the end of its last one, when it was raised, its peak."""

    start: float
    end: float
    raised: float
    peak: float

    def to_dict(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in vars(self).items()}


class AlarmState:
    """Follows the scores of one source, in order and in constant memory."""

    def __init__(self, rule: AlarmRule) -> None:
        self.rule = rule
        self._begun: TimedScore | None = None  # the first window from `on`
        self._last: TimedScore | None = None
        self._peak = 0.0
        self._raised: float | None = None

    @property
    def active(self) -> bool:
        """Whether an alarm is raised now."""
        return self._raised is not None

    def add(self, score: TimedScore) -> Alarm | None:
        """Add a score; return the alarm that it ends, if any."""
        ended = None
        if self._last is not None:
            gap, length = score.start - self._last.end, self._last.end - self._last.start
            if score.score < self.rule.off or gap > length * _CONTINUES:
                ended = self.end()
        if self._begun is None and score.score >= self.rule.on:
            self._begun, self._peak = score, score.score
        if self._begun is not None:
            self._last, self._peak = score, max(self._peak, score.score)
            if self._raised is None and score.end - self._begun.end >= self.rule.seconds - 1e-9:
                self._raised = score.end
        return ended

    def end(self) -> Alarm | None:
        """End the alarm, as after a loss of the camera; return it if it had been raised."""
        begun, last, raised = self._begun, self._last, self._raised
        self._begun = self._last = self._raised = None
        if begun is None or last is None or raised is None:
            return None
        return Alarm(begun.start, last.end, raised, self._peak)


def find_alarms(scores: Iterable[TimedScore], rule: AlarmRule) -> list[Alarm]:
    """Return the alarms of one recording."""
    state = AlarmState(rule)
    found = [state.add(score) for score in scores]
    return [alarm for alarm in [*found, state.end()] if alarm is not None]


@dataclass(frozen=True)
class AlarmRate:
    """Alarms on recordings in which nothing happens."""

    alarms: int
    seconds: float

    @property
    def per_day(self) -> float:
        return self.alarms / self.seconds * DAY

    @property
    def upper_per_day(self) -> float:
        """The upper end of the one-sided 95 % Poisson interval (Garwood 1936)."""
        return float(chi2.ppf(0.95, 2 * self.alarms + 2)) / 2 / self.seconds * DAY


def threshold_for(
    recordings: Sequence[Sequence[TimedScore]], *, per_day: float, seconds: float
) -> tuple[AlarmRule, AlarmRate]:
    """Return the rule with the lowest `on` from which no higher one gives more than `per_day` false alarms a day.

    Args:
        recordings: the scores of videos in which nothing happens, each in order of time.
        per_day: false alarms a day that are accepted.
        seconds: the minimal duration of the rule.

    Raises:
        UserError: there are no scores, or even the highest threshold gives too many alarms.
    """
    values = np.unique([score.score for recording in recordings for score in recording])
    watched = sum(_watched(recording) for recording in recordings)
    if not len(values) or watched <= 0:
        raise UserError("the negatives hold no scores; write them with: videomae predict RUN VIDEOS --out FOLDER")
    above = min(1.0, math.nextafter(float(values[-1]), 2.0))
    places = np.linspace(0, len(values) - 1, min(len(values), _CANDIDATES)).round().astype(int)
    best: tuple[AlarmRule, AlarmRate] | None = None
    for on in [above, *(float(value) for value in values[places][::-1])]:
        rule = AlarmRule(on=on, off=on * OFF_RATIO, seconds=seconds)
        rate = AlarmRate(sum(len(find_alarms(recording, rule)) for recording in recordings), watched)
        if rate.per_day > per_day:
            break
        best = rule, rate
    if best is None:
        raise UserError(
            f"no threshold gives at most {per_day:g} alarms a day: the model is sure of alarms on negatives"
        )
    return best


def _watched(recording: Sequence[TimedScore]) -> float:
    """Seconds of video that the windows of a recording cover, which overlap."""
    covered, until = 0.0, -math.inf
    for score in recording:
        covered += max(0.0, score.end - max(score.start, until))
        until = max(until, score.end)
    return covered
