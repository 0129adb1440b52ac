"""Who is named: long enough much slower than the median, by more than noise, once; and who keeps up again."""

from typing import Any

import pytest

from tests.tiny import world_of_one
from videomae.run.health.guard import HealthConfig
from videomae.run.health.stragglers import Stragglers


class Ranks(Stragglers):
    """Four ranks whose figures come from the test."""

    def __init__(self, reports: list[dict[str, Any]]) -> None:
        def report(kind: str, step: int, **values: Any) -> None:
            reports.append({"kind": kind, "step": step, **values})

        super().__init__(HealthConfig(straggler_windows=3), world_of_one(), report=report)
        self._hosts, self._streaks = ["a", "a", "b", "b"], [0] * 4

    def see(self, step: int, *seconds: float, wall: float = 1.0) -> None:
        self._report_slow(step, seconds, wall)


@pytest.fixture
def reports() -> list[dict[str, Any]]:
    return []


def test_a_rank_is_named_once_after_some_windows_and_again_after_a_recovery(reports: list[dict[str, Any]]) -> None:
    ranks = Ranks(reports)
    for step in range(1, 6):
        ranks.see(step, 0.2, 0.2, 0.2, 0.4)
    expected = {"kind": "straggler", "rank": 3, "host": "b", "seconds": 0.4, "median_seconds": 0.2}
    assert reports == [{**expected, "step": 3}]
    ranks.see(6, 0.2, 0.2, 0.2, 0.2)
    for step in range(7, 10):
        ranks.see(step, 0.2, 0.2, 0.2, 0.4)
    assert reports[1:] == [{**expected, "step": 9}]


def test_hiccups_noise_and_a_slow_majority_are_nobodys_fault(reports: list[dict[str, Any]]) -> None:
    ranks = Ranks(reports)
    for step in range(12):
        ranks.see(step, 0.2, 0.2, 0.2, 0.9 if step % 3 else 0.2)  # never three in a row
        ranks.see(step, 0.001, 0.001, 0.001, 0.004)  # four times the median, of no account in a step of 1 s
        ranks.see(step, 0.1, 0.2, 0.2, 0.2)
    assert reports == []


def test_a_process_alone_compares_itself_with_nobody(reports: list[dict[str, Any]]) -> None:
    ranks = Ranks(reports)

    def loss_of(module: Any, batch: Any) -> Any:
        return batch

    assert ranks.timed(loss_of) is loss_of
    ranks.compare(1, steps=1)
    assert reports == []
