"""Curves of characters: what a person must be able to see in them."""

import math

from videomae.run.metrics.view import sparkline


def test_a_sparkline_climbs_from_the_lowest_to_the_highest_bar() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([7, 0], 8) == "█▁"
    assert sparkline([3.0] * 4, 8) == "▅▅▅▅"
    assert sparkline(list(range(1000)), 8) == "▁▂▃▄▅▆▇█"


def test_what_is_no_number_is_a_gap_and_hurts_nothing() -> None:
    assert sparkline([0, math.nan, math.inf, 1], 8) == "▁  █"
    assert sparkline([math.nan], 8) == " "
