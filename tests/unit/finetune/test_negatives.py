"""False alarms an hour at each threshold, and the threshold for so many a day."""

import pytest

from finetune.negatives import summarize
from finetune.predict.alarms import TimedScore


def recording(*scores: float) -> list[TimedScore]:
    """One window a minute."""
    return [TimedScore(60.0 * place, 60.0 * place + 60, score) for place, score in enumerate(scores)]


def test_alarms_are_counted_at_every_threshold() -> None:
    quiet = [0.1] * 55
    found = summarize(
        [recording(0.9, 0.75, 0.1, 0.9, 0.1, *quiet), recording(*quiet, *[0.5] * 5)], positive="Fight", per_day=24
    )
    assert found.hours == pytest.approx(2.0)
    rates = dict(found.curve)
    assert rates[0.0] == 1.0  # each recording is one alarm
    assert rates[0.9] == 1.0  # two peaks in two hours; 0.75 continues the first
    assert rates[0.6] == 1.0
    assert rates[0.5] == 1.5
    assert rates[0.91] == 0.0
    assert found.threshold == 0.75  # the lowest score with no more than two alarms
    assert found.alarms == 2
    assert found.upper_per_day > 24
    assert "at most 24 alarms a day: threshold 0.75" in str(found)
    assert found.to_dict()["curve"][90] == {"threshold": 0.9, "alarms_per_hour": 1.0}
