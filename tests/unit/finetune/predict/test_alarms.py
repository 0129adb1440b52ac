"""Alarms: hysteresis, minimal duration, interruptions, and thresholds by false alarms a day."""

import numpy as np
import pytest

from finetune.predict.alarms import DAY, AlarmRate, AlarmRule, TimedScore, find_alarms, threshold_for
from videomae.core.errors import UserError


def recording(scores: list[float], *, start: float = 0.0) -> list[TimedScore]:
    """Windows of two seconds, one a second."""
    return [TimedScore(start + number, start + number + 2, score) for number, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("scores", "seconds", "wanted"),
    [
        ([0.1, 0.9, 0.1], 0, [(1, 3)]),
        ([0.1, 0.9, 0.6, 0.55, 0.4, 0.9], 0, [(1, 5), (5, 7)]),  # from `off` on it lasts
        ([0.1, 0.6, 0.6, 0.6], 0, []),  # `on` is never reached
        ([0.9, 0.1, 0.9, 0.1], 1, []),  # each too short
        ([0.9, 0.7, 0.1, 0.9], 1, [(0, 3)]),
        ([0.9, 0.9, 0.9, 0.9], 2, [(0, 5)]),  # lasts until the end
        ([], 0, []),
    ],
)
def test_hysteresis_and_minimal_duration(scores: list[float], seconds: float, wanted: list[tuple[int, int]]) -> None:
    alarms = find_alarms(recording(scores), AlarmRule(on=0.8, off=0.5, seconds=seconds))
    assert [(alarm.start, alarm.end) for alarm in alarms] == wanted
    assert all(alarm.peak == 0.9 and alarm.start + 2 + seconds <= alarm.raised <= alarm.end for alarm in alarms)


def test_an_alarm_does_not_span_a_loss() -> None:
    scores = [*recording([0.9, 0.9]), *recording([0.9, 0.9], start=60)]
    alarms = find_alarms(scores, AlarmRule(on=0.8, off=0.5))
    assert [(alarm.start, alarm.end) for alarm in alarms] == [(0, 3), (60, 63)]


def test_the_threshold_keeps_to_the_accepted_rate() -> None:
    rng = np.random.default_rng(0)
    negatives = [recording(rng.beta(2, 5, 3000).tolist()) for _ in range(4)]
    seconds = 4 * 3001
    rules = [threshold_for(negatives, per_day=per_day, seconds=0)[0] for per_day in (0, 50, 500, 5000)]
    assert [rule.on for rule in rules] == sorted((rule.on for rule in rules), reverse=True)
    assert rules[0].on > max(score.score for scores in negatives for score in scores)
    for rule, per_day in zip(rules, (0, 50, 500, 5000), strict=True):
        alarms = sum(len(find_alarms(scores, rule)) for scores in negatives)
        assert alarms / seconds * DAY <= per_day
    lower = AlarmRule(on=rules[2].on - 0.02, off=(rules[2].on - 0.02) * 0.8)
    assert sum(len(find_alarms(scores, lower)) for scores in negatives) / seconds * DAY > 500


def test_no_alarm_in_an_hour_proves_little() -> None:
    assert AlarmRate(0, 3600.0).per_day == 0
    assert AlarmRate(0, 3600.0).upper_per_day == pytest.approx(24 * 2.996, rel=1e-3)  # the rule of three


def test_negatives_without_scores_and_impossible_rules_are_refused() -> None:
    with pytest.raises(UserError, match="no scores"):
        threshold_for([[]], per_day=1, seconds=0)
    with pytest.raises(UserError, match="no threshold"):
        threshold_for([recording([1.0, 0.0] * 50)], per_day=1, seconds=0)
    with pytest.raises(UserError, match="0 <= off <= on <= 1"):
        AlarmRule(on=0.5, off=0.6)
