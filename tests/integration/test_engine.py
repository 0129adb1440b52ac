"""The DeepSpeed engine against plain PyTorch: losses, gradient norms and parameters of the same steps."""

import json
from typing import Any

import pytest

from tests.processes import run_command, run_processes

PROGRAM = "tests.integration.engine_steps"


def steps(processes: int, kind: str, stage: int, precision: str, accumulation: int, clip: float) -> dict[str, Any]:
    arguments = (PROGRAM, kind, str(stage), precision, str(accumulation), str(clip))
    printed = run_command(*arguments) if processes == 1 else run_processes(processes, *arguments)
    return json.loads(next(line for line in printed.splitlines() if line.startswith("{")))


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return steps(1, "local", 0, "fp32", 2, 0.1)


@pytest.mark.parametrize(("processes", "stage"), [(1, 0), (2, 0), (2, 1), (2, 2), (2, 3)])
def test_deepspeed_equals_plain_pytorch(reference: dict[str, Any], processes: int, stage: int) -> None:
    ours = steps(processes, "deepspeed", stage, "fp32", 2, 0.1)
    assert ours["losses"] == pytest.approx(reference["losses"], rel=1e-5)
    assert ours["norms"] == pytest.approx(reference["norms"], rel=1e-3)
    assert ours["sums"] == pytest.approx(reference["sums"], rel=1e-3, abs=2e-3)


def test_clipping_is_what_the_config_says(reference: dict[str, Any]) -> None:
    free = steps(1, "local", 0, "fp32", 2, 0.0)
    unclipped = steps(1, "deepspeed", 0, "fp32", 2, 0.0)
    assert unclipped["losses"] == pytest.approx(free["losses"], rel=1e-5)
    assert max(reference["norms"]) > 0.1, "the reference must clip for this to show anything"


def test_bf16_follows_fp32(reference: dict[str, Any]) -> None:
    ours = steps(2, "deepspeed", 1, "bf16", 2, 0.1)
    assert ours["losses"] == pytest.approx(reference["losses"], rel=5e-3)
