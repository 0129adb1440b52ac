"""Engines on a GPU against the reference on the CPU: all stages and precisions, and what only a device can show."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.objective import Objective, ObjectiveConfig
from tests.engine_cases import Reference
from tests.engine_matrix import distance
from tests.engine_runs import make_engine, micro_batches, reference_results, run_step, run_steps, saved
from tests.tiny import TINY_ENCODER, world_of_one
from videomae.core.distributed import World
from videomae.engine.protocol import Engine

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # libraries warn of much on a device
REFERENCE = Reference(clip=True, ema=True, decay=True)
PLAIN = Reference(clip=False, ema=False, decay=False)
STEPS = 4
LIMITS = {
    "fp32": {"loss": 1e-4, "norm": 1e-3, "weights": 1e-3},
    "bf16": {"loss": 2e-2, "norm": 1e-1, "weights": 2e-2},
}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return reference_results(REFERENCE, steps=STEPS)


def results_of(engine: Engine) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    found = run_steps(engine, count=STEPS)
    state = {f"master.{name}": value for name, value in engine.full_state().items()}
    return found, state | {f"ema.{name}": value for name, value in engine.full_state(ema=True).items()}


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("engine", ["local", "zero0", "zero1", "zero2", "zero3"])
def test_an_engine_trains_as_the_reference_on_the_cpu(
    engine: str, precision: str, world: World, expected: dict[str, Any]
) -> None:
    kind = {"kind": "local"} if engine == "local" else {"kind": "deepspeed", "zero_stage": int(engine[-1])}
    found, state = results_of(make_engine(world, REFERENCE, precision=precision, **kind))
    for key, limit in LIMITS[precision].items():
        assert distance(found, expected, state)[key] < limit, key


@pytest.mark.parametrize("setting", ["compile", "activation_checkpointing"])
def test_prepared_blocks_train_as_plain_ones(setting: str, world: World) -> None:
    plain = run_steps(make_engine(world, PLAIN, kind="local"), count=2)
    prepared = run_steps(make_engine(world, PLAIN, kind="local", **{setting: True}), count=2)
    for key in ("losses", "norms"):
        assert prepared[key] == pytest.approx(plain[key], rel=1e-4)


def test_deterministic_runs_agree_to_the_bit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        engines = [make_engine(world, REFERENCE, kind="local", precision="bf16", deterministic=True) for _ in range(2)]
        first, second = (results_of(engine) for engine in engines)
    finally:
        torch.use_deterministic_algorithms(False)
    assert first[0] == second[0]
    assert all(torch.equal(value, second[1][name]) for name, value in first[1].items())


@pytest.mark.parametrize("stage", [0, 3])
def test_a_state_goes_from_the_device_to_the_cpu_and_back(stage: int, world: World, tmp_path: Path) -> None:
    engine = make_engine(world, REFERENCE, kind="deepspeed", zero_stage=stage)
    run_steps(engine, count=2)
    on_cpu = make_engine(world_of_one(), REFERENCE, kind="local", seed=1)
    on_cpu.load(saved(engine, tmp_path / "device"))
    back = make_engine(world, REFERENCE, kind="local", seed=2)
    back.load(saved(on_cpu, tmp_path / "cpu"))
    state = engine.full_state(ema=True)
    assert all(torch.equal(value, state[name]) for name, value in back.full_state(ema=True).items())
    assert run_steps(back, first=2, count=1)["losses"] == pytest.approx(
        run_steps(engine, first=2, count=1)["losses"], rel=1e-4
    )


def test_a_step_that_is_not_finite_changes_nothing(world: World) -> None:
    engine = make_engine(world, REFERENCE, kind="local", precision="bf16")
    run_steps(engine, count=2)
    before = engine.full_state()
    bad = torch.full((), float("nan"), device=world.device)
    result = run_step(engine, 2, alter=lambda loss, _: loss * bad)
    assert result.skipped.item() == 1
    assert all(torch.equal(value, before[name]) for name, value in engine.full_state().items())
    assert run_step(engine, 3).skipped.item() == 0


def test_a_step_does_not_wait_for_the_device(world: World) -> None:
    if world.device.type != "cuda":
        pytest.skip("a CPU has nothing to wait for")
    engine = make_engine(world, REFERENCE, kind="local", precision="bf16")
    run_steps(engine, count=2)
    pinned = [batch.pin_memory() for batch in micro_batches(2, world, 1)]
    bad = torch.full((), float("nan"), device=world.device)
    loss_of = Objective(ObjectiveConfig(), encoder=TINY_ENCODER, device=world.device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        taken = engine.train_step(pinned, loss_of, lr=1e-3)
        skipped = engine.train_step(pinned, lambda module, batch: loss_of(module, batch) * bad, lr=1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (taken.skipped.item(), skipped.skipped.item()) == (0, 1)


def test_a_group_of_one_reduces_on_the_device(world: World) -> None:
    values = torch.arange(4.0, device=world.device)
    torch.distributed.all_reduce(values)
    assert values.tolist() == [0, 1, 2, 3]
