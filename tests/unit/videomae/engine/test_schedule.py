"""Schedules and durations."""

import itertools

import pytest

from videomae.engine.schedule import ScheduleConfig, make_schedule, steps_of


@pytest.mark.parametrize(
    ("text", "steps"),
    [("3 epochs", 30), ("1 epoch", 10), ("0.5 epochs", 5), ("7 steps", 7), ("1e3 samples", 125), ("64 clips", 8)],
)
def test_durations(text: str, steps: int) -> None:
    assert steps_of(text, steps_per_epoch=10, batch=8) == steps


@pytest.mark.parametrize("text", ["3", "epochs", "3 parsecs", "-1 epochs", ""])
def test_a_duration_without_number_or_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number and a unit"):
        ScheduleConfig(duration=text)


def test_lr_rises_linearly_then_falls_by_a_cosine() -> None:
    config = ScheduleConfig(duration="110 steps", warmup="10 steps", final_factor=0.1)
    factors = [make_schedule(config, peak_lr=1.0, steps_per_epoch=10, batch=8).lr(step) for step in range(111)]
    assert factors[0] == 0
    assert factors[5] == pytest.approx(0.5)
    assert factors[10] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.55)  # half way: the mean of peak and end
    assert factors[110] == pytest.approx(0.1)
    assert all(a <= b for a, b in itertools.pairwise(factors[:11]))
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))


def test_a_data_set_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="no full batch of 64"):
        make_schedule(ScheduleConfig(), peak_lr=1.0, steps_per_epoch=0, batch=64)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    schedule = ScheduleConfig(duration="20 epochs", warmup="40 epochs")
    with pytest.raises(ValueError, match="shorten the warm-up"):
        make_schedule(schedule, peak_lr=1.0, steps_per_epoch=10, batch=8)


def test_lr_stays_high_until_the_last_share_and_then_falls_linearly() -> None:
    config = ScheduleConfig(kind="wsd", duration="200 steps", warmup="5 %", decay="20 %", final_factor=0.1)
    schedule = make_schedule(config, peak_lr=2.0, steps_per_epoch=10, batch=8)
    rates = [schedule.lr(step) for step in range(201)]
    assert rates[5] == pytest.approx(1.0)
    assert rates[10:161] == [2.0] * 151
    assert rates[180] == pytest.approx(1.1)  # half way: the mean of peak and end
    assert rates[200] == pytest.approx(0.2)
    assert all(a > b for a, b in itertools.pairwise(rates[160:]))


@pytest.mark.parametrize("warmup", ["50 epochs", "41 steps"])
def test_phases_longer_than_the_run_are_refused(warmup: str) -> None:
    config = ScheduleConfig(kind="wsd", duration="5 epochs", warmup=warmup, decay="10 steps")
    with pytest.raises(ValueError, match=r"more than the 50 of the run; shorten"):
        make_schedule(config, peak_lr=1.0, steps_per_epoch=10, batch=8)


def test_a_share_is_no_duration() -> None:
    with pytest.raises(ValueError, match="must be in epochs, steps or samples"):
        ScheduleConfig(duration="15 %")
    with pytest.raises(ValueError, match="must be in epochs, steps or samples here"):
        steps_of("15 %", steps_per_epoch=10, batch=8)
