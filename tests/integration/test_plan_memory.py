"""The predicted memory against what two processes under DeepSpeed take; `python -m benchmarks.plan_memory` runs all."""

import pytest

from benchmarks.plan_memory import Case, compare


@pytest.mark.parametrize(
    "case", [pytest.param(Case(2, "1"), marks=pytest.mark.long), Case(2, "3", checkpointing=True)], ids=str
)
def test_predicted_memory_is_measured(case: Case) -> None:
    row = compare(case)
    assert row.between_steps == pytest.approx(row.between_steps_measured, rel=0.001)
    assert row.peak == pytest.approx(row.peak_measured, rel=0.05)
