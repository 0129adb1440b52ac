"""Schedules and durations."""

import itertools

import pytest

from videomae.engine.schedule import ScheduleConfig, make_schedule, steps_of, warmup_cosine


@pytest.mark.parametrize(
    ("text", "steps"),
    [("3 epochs", 30), ("1 epoch", 10), ("0.5 epochs", 5), ("7 steps", 7), ("1e3 samples", 125), ("64 samples", 8)],
)
def test_durations(text: str, steps: int) -> None:
    assert steps_of(text, steps_per_epoch=10, batch=8) == steps


@pytest.mark.parametrize("text", ["3", "epochs", "3 parsecs", "-1 epochs", ""])
def test_a_duration_without_number_or_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number and a unit"):
        ScheduleConfig(duration=text)


def test_lr_rises_linearly_then_falls_by_a_cosine() -> None:
    factors = [warmup_cosine(s, total=110, warmup=10, start_factor=0.0, final_factor=0.1) for s in range(111)]
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
