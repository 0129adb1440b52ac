"""The guard: when it steps in, that it never does so on a quiet run, and that a saved one goes on to the bit."""

import json
import math

import numpy as np
import pytest
import torch

from videomae.engine.protocol import StepResult
from videomae.run.health.guard import Guard, HealthConfig

QUICK = HealthConfig(window=20, warmup=10, skips=3, skip_fraction=0.5, diverged=5)


def update(norm: float, loss: float = 1.0, *, skipped: bool = False) -> StepResult:
    values = [torch.tensor(value) for value in (loss, loss, norm, float(skipped))]
    return StepResult(loss=values[0], loss_max=values[1], grad_norm=values[2], skipped=values[3])


def run(guard: Guard, updates: list[StepResult]) -> list[float]:
    """The ceiling before each step."""
    ceilings = []
    for step in updates:
        ceilings.append(guard.skip_threshold)
        guard.observe(step)
    return ceilings


def quiet(steps: int, *, seed: int = 0) -> list[StepResult]:
    rng = np.random.default_rng(seed)
    return [update(float(norm), float(loss)) for norm, loss in zip(*rng.lognormal(0, 0.4, (2, steps)), strict=True)]


def test_there_is_no_ceiling_before_the_warmup_and_then_one_far_above_the_median() -> None:
    guard = Guard(QUICK)
    ceilings = run(guard, [update(2.0) for _ in range(30)])
    assert ceilings[:11] == [math.inf] * 11
    assert ceilings[11:] == [20.0] * 19


def test_a_quiet_run_is_never_troubled() -> None:
    guard = Guard(HealthConfig(warmup=20))
    steps = quiet(2000)
    ceilings = run(guard, steps)
    assert all(float(step.grad_norm) < ceiling for step, ceiling in zip(steps, ceilings, strict=True))
    assert guard.failure is None
    assert guard.healthy


def test_a_norm_that_grows_tenfold_in_fifty_steps_is_followed() -> None:
    guard = Guard(HealthConfig(warmup=20))
    steps = [update(10 ** (max(0, step - 100) / 50)) for step in range(150)]
    ceilings = run(guard, steps)
    assert all(float(step.grad_norm) < ceiling for step, ceiling in zip(steps, ceilings, strict=True))


def test_a_skipped_step_leaves_the_medians_alone_and_is_forgiven() -> None:
    guard = Guard(QUICK)
    run(guard, [update(2.0)] * 20 + [update(1e9, skipped=True), update(math.nan, math.nan, skipped=True)])
    assert not guard.healthy
    assert run(guard, [update(2.0)] * 3)[-1] == 20.0
    assert guard.healthy
    assert guard.failure is None


def test_too_many_skips_in_a_row_are_trouble() -> None:
    guard = Guard(QUICK)
    run(guard, [update(2.0)] * 20 + [update(math.nan, math.nan, skipped=True)] * 4)
    assert guard.failure is None  # the last of them is read one step later
    guard.observe(update(math.nan, math.nan, skipped=True))
    assert guard.failure is not None
    assert "4 consecutive steps were skipped (health.skips=3)" in guard.failure


def test_too_large_a_share_of_skips_is_trouble() -> None:
    guard = Guard(QUICK)
    run(guard, [update(2.0), update(99.0, skipped=True)] * 20)
    assert guard.failure is None
    run(guard, [update(99.0, skipped=True)] * 3)
    assert guard.failure is not None
    assert "health.skip_fraction=0.5" in guard.failure


def test_a_loss_that_stays_high_is_trouble_and_a_single_one_is_not() -> None:
    guard = Guard(QUICK)
    run(guard, [update(2.0, 1.0)] * 20 + [update(2.0, 5.0)] + [update(2.0, 1.0)] * 5)
    assert guard.healthy
    run(guard, [update(2.0, 5.0)] * 6)
    assert guard.failure is not None
    assert "stayed above 1.2 for 5 steps" in guard.failure


def test_a_saved_guard_goes_on_to_the_bit() -> None:
    spiked = quiet(60)
    spiked[33] = update(math.nan, math.nan, skipped=True)
    spiked[34] = update(math.inf, 3.0, skipped=True)
    for cut in (0, 1, 33, 34, 35, 50):
        whole, first, second = Guard(QUICK), Guard(QUICK), Guard(QUICK)
        expected = run(whole, spiked)
        before = run(first, spiked[:cut])
        second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
        assert before + run(second, spiked[cut:]) == expected
        assert second.state_dict() == whole.state_dict()


def test_it_can_be_switched_off() -> None:
    guard = Guard(HealthConfig(spike=None, warmup=1))
    assert run(guard, [update(1.0)] * 10) == [math.inf] * 10
    assert guard.failure is None


@pytest.mark.parametrize(
    "values", [{"window": 0}, {"hang_seconds": 0.0}, {"spike": 1.0}, {"skip_fraction": 0.0}, {"rollbacks": -1}]
)
def test_impossible_limits_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        HealthConfig(**values)
