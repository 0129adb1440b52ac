"""The estimate of memory against what two processes under DeepSpeed really take.

At two ZeRO stages; `python -m launch.plan --check-memory` measures all, with and without checkpointing.
"""

import pytest

from launch.plan.check import Case, check


@pytest.mark.parametrize(
    "case",
    [
        Case(2, "1", "bf16"),
        Case(2, "3", checkpointing=True),
    ],
    ids=str,
)
def test_foreseen_is_measured(case: Case) -> None:
    (row,) = check([case])
    assert row.held == pytest.approx(row.held_measured, rel=0.01)
    assert row.peak == pytest.approx(row.peak_measured, rel=0.05)
