"""Curves of characters: what a person must be able to see in them."""

import math

from videomae.run.metrics.plot import chart, sparkline, thin


def test_a_sparkline_climbs_from_the_lowest_to_the_highest_bar() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([7, 0], 8) == "█▁"
    assert sparkline([3.0] * 4, 8) == "▅▅▅▅"


def test_what_is_no_number_is_a_gap_and_hurts_nothing() -> None:
    assert sparkline([0, math.nan, math.inf, 1], 8) == "▁  █"
    assert sparkline([math.nan], 8) == " "
    rows, low, high = chart([math.nan, 1.0, math.inf, 2.0], width=4, height=2)
    assert (low, high) == (1.0, 2.0)
    assert all(len(row) == 4 for row in rows)
    assert chart([], width=3, height=2)[0] == ["   ", "   "]


def test_many_values_are_thinned_to_means_that_keep_their_order() -> None:
    assert thin(list(range(1000)), 10).tolist() == [49.5 + 100 * place for place in range(10)]
    assert len(sparkline(list(range(1000)), 30)) == 30


def dots(row: str) -> int:
    return sum(bin(ord(cell) - 0x2800).count("1") for cell in row)


def test_a_falling_line_starts_at_the_top_left_and_ends_at_the_bottom_right() -> None:
    rows, low, high = chart([float(100 - place) for place in range(100)], width=20, height=5)
    assert (low, high) == (2.0, 97.0)  # the top edge stands below the few highest values
    assert dots(rows[0][:4]) > 0
    assert dots(rows[0][5:]) == 0
    assert dots(rows[-1][-4:]) > 0
    assert dots(rows[-1][:14]) == 0
    assert all(dots(row) for row in rows)


def test_a_few_values_fill_the_width_and_one_spike_does_not_flatten_the_rest() -> None:
    rows, _, _ = chart([1.0, 2.0, 1.0], width=30, height=4)
    assert all(any(dots(row[column]) for row in rows) for column in range(30))
    spiky = [1000.0] + [1.0 + place % 7 for place in range(300)]
    _, _, high = chart(spiky, width=200, height=4)
    assert high < 10
