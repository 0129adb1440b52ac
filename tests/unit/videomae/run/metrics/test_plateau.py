"""A loss that sits at the trivial value is worth one warning; one that falls, or sits elsewhere, none."""

import math
import random

import pytest

from videomae.run.metrics.plateau import WINDOW, Plateau, TrivialLoss

TRIVIAL = TrivialLoss(key="loss", value=math.log(2), answer="guessing", advice="raise the rate")


def warnings(losses: list[float], *, warmup: int = 0) -> list[str]:
    plateau = Plateau(TRIVIAL, warmup)
    found = (plateau.check(step, loss) for step, loss in enumerate(losses, start=1))
    return [warning for warning in found if warning]


def test_noise_round_the_trivial_loss_warns_once_and_says_what_to_do() -> None:
    rng = random.Random(0)
    (warning,) = warnings([math.log(2) + rng.gauss(0, 0.02) for _ in range(5 * WINDOW)])
    assert "guessing gives 0.693" in warning
    assert "raise the rate" in warning


@pytest.mark.parametrize(
    "losses",
    [
        [0.9 - 0.4 * step / 100 for step in range(100)],  # falls through it
        [0.66] * 100,
        [math.nan] * 100,
        [math.log(2)] * (WINDOW - 1),
    ],
)
def test_other_courses_do_not_warn(losses: list[float]) -> None:
    assert not warnings(losses)


def test_nothing_is_expected_of_the_warm_up() -> None:
    assert not warnings([math.log(2)] * 50, warmup=40)
    assert warnings([math.log(2)] * 60, warmup=40)
