"""`engine.deterministic` sets what CUDA needs for bit-equal runs, and changes nothing on a CPU."""

import os
from collections.abc import Iterator

import pytest
import torch

from tests.engine_cases import Reference
from tests.engine_runs import make_engine, run_steps
from tests.tiny import world_of_one

PLAIN = Reference(clip=False, ema=False, decay=False)
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reset the process-wide settings after each test."""
    monkeypatch.setenv(CUBLAS, "")
    monkeypatch.delenv(CUBLAS)
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "deterministic", False)
    monkeypatch.setattr(cudnn, "benchmark", True)
    yield
    torch.use_deterministic_algorithms(False)


def flags() -> tuple[bool, str | None, bool, bool]:
    cudnn = torch.backends.cudnn
    enabled = torch.are_deterministic_algorithms_enabled()
    return enabled, os.environ.get(CUBLAS), cudnn.deterministic, cudnn.benchmark


@pytest.mark.usefixtures("joining")
@pytest.mark.parametrize("kind", ["local", "deepspeed"])
def test_it_sets_what_cuda_needs_and_nothing_otherwise(kind: str) -> None:
    make_engine(world_of_one(), PLAIN, kind=kind)
    assert flags() == (False, None, False, True)
    make_engine(world_of_one(), PLAIN, kind=kind, deterministic=True)
    assert flags() == (True, ":4096:8", True, False)


def test_the_users_cublas_workspace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS, ":16:8")
    make_engine(world_of_one(), PLAIN, kind="local", deterministic=True)
    assert flags()[1] == ":16:8"


def test_on_a_cpu_it_changes_no_bit() -> None:
    plain, fixed = (make_engine(world_of_one(), PLAIN, kind="local", deterministic=on) for on in (False, True))
    torch.use_deterministic_algorithms(False)
    before = run_steps(plain, count=3)
    torch.use_deterministic_algorithms(True)
    assert run_steps(fixed, count=3) == before
    state = fixed.full_state()
    assert all(torch.equal(value, state[name]) for name, value in plain.full_state().items())
