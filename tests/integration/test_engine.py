"""The DeepSpeed engine against plain PyTorch; saving and loading its state; skipped steps.

Three process groups run everything (engine_program.py). `python -m tests.engine_matrix` runs the full matrix of
engines instead of this covering choice.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine_cases import BAD_STEPS, FULL, PAIRWISE, RESUMED, STAGES, STEPS, Case, Reference, loaded_by
from tests.engine_runs import reference_results
from tests.processes import once, run_processes

PROGRAM = "tests.integration.engine_program"
pytestmark = pytest.mark.timeout(900)  # the first test waits for all process groups
FULL_REFERENCE = Reference(clip=True, ema=True, decay=True, muon=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of two, then one, then four processes: results as JSON, weights, and states."""
    return once(tmp_path_factory, "engines", run_all)


def run_all(path: Path) -> None:
    run_processes(2, PROGRAM, path, "pairwise", "resume", "begin", "skips", timeout=600)
    run_processes(1, PROGRAM, path, "pairwise", "reshard", "middle", timeout=600)
    run_processes(4, PROGRAM, path, "pairwise", "reshard", "end", timeout=600)


References = Callable[[Reference], dict[str, Any]]


@pytest.fixture(scope="module")
def references() -> References:
    """Results of the reference engine, cached."""
    return functools.cache(reference_results)


def results(folder: Path, job: str, processes: int) -> dict[str, Any]:
    return json.loads((folder / f"{job}-{processes}.json").read_text())


@pytest.mark.parametrize("case", PAIRWISE, ids=lambda case: case.name)
def test_deepspeed_equals_plain_pytorch(folder: Path, references: References, case: Case) -> None:
    ours, reference = results(folder, "pairwise", case.processes)[case.name], references(case.reference)
    assert len(ours["losses"]) == STEPS
    assert ours["losses"] == pytest.approx(reference["losses"], rel=1e-5)
    assert ours["norms"] == pytest.approx(reference["norms"], rel=1e-4)
    state = torch.load(folder / case.name)
    assert state.keys() == reference["state"].keys()
    for name, value in state.items():
        torch.testing.assert_close(value, reference["state"][name], rtol=1e-4, atol=1e-5, msg=name)


def test_each_setting_changes_the_numbers(references: References) -> None:
    plain = references(Reference(clip=False, ema=False, decay=False))
    for changed in (
        Reference(clip=True, ema=False, decay=False),
        Reference(clip=False, ema=False, decay=True),
        Reference(clip=False, ema=False, decay=False, muon=True),
    ):
        assert references(changed)["losses"][-1] != pytest.approx(plain["losses"][-1], rel=1e-5)
    full = references(FULL_REFERENCE)["state"]
    assert min(references(FULL_REFERENCE)["norms"]) > 0.01
    weight = "encoder.blocks.0.mlp.fc1.weight"
    assert not torch.allclose(full[f"ema.{weight}"], full[f"master.{weight}"], atol=1e-4)


@pytest.mark.parametrize(("stage", "precision"), RESUMED)
def test_a_resumed_run_is_the_same_to_the_bit(folder: Path, precision: str, stage: int) -> None:
    found = results(folder, "resume", 2)[f"{precision}-zero{stage}"]
    assert found["resumed"] == found["whole"]
    assert found["again"] == found["whole"], "a rollback within a run"
    assert found["same"], "weights, moments, averages or step counts differ"
    assert found["stored"], "the loaded state differs from the saved one"


@pytest.mark.parametrize("processes", [1, 4])
def test_any_engine_reads_the_state_of_two_processes_exactly(folder: Path, processes: int) -> None:
    found = results(folder, "reshard", processes)
    assert found.keys() == {f"zero{stage}-to-{to}" for stage in STAGES for to in loaded_by(stage, processes)}
    assert [name for name, load in found.items() if not load["equal"]] == []


@pytest.mark.parametrize("processes", [1, 4])
def test_processes_share_the_reading_of_a_state(folder: Path, processes: int) -> None:
    """There are two files: rank 0 opens both for their headers, and each rank those with values that it needs."""
    for name, load in results(folder, "reshard", processes).items():
        assert max(load["opened"][1:], default=0) <= 2, name
        assert load["opened"][0] <= 2 + 2, name
        assert max(load["bytes"]) < 1.1 * load["stored"] / processes + 100_000, name  # beside the headers
        assert sum(load["bytes"]) < load["stored"] + 100_000, name


def test_a_run_on_two_then_one_then_four_processes_follows_the_reference(folder: Path, references: References) -> None:
    """At stages 1, 3 and 0, three steps each."""
    parts = [results(folder, job, count) for job, count in (("begin", 2), ("middle", 1), ("end", 4))]
    for key in ("losses", "norms"):
        values = [value for part in parts for value in part[key]]
        assert values == pytest.approx(references(FULL_REFERENCE)[key][:9], rel=1e-4)


@pytest.mark.parametrize(("stage", "precision"), BAD_STEPS)
def test_a_bad_step_changes_nothing_on_any_rank(folder: Path, precision: str, stage: int) -> None:
    found = results(folder, "skips", 2)[f"{precision}-zero{stage}"]
    for fault in ("nan loss", "nan gradient", "threshold"):
        assert found[fault]["skipped"] == [1.0, 1.0], fault
        assert found[fault]["same"], fault
        assert found[fault]["finite"] == [fault == "threshold"] * 2
    assert found["after"]["skipped"] == 0.0
    assert found["after"]["losses"][0] == pytest.approx(found["after"]["losses"][1], rel=1e-4)
    assert found["after"].get("same", True), "later steps differ from those of a run without it"


@pytest.mark.parametrize("stage", STAGES)
def test_fp16_lowers_its_scale_only_on_overflow(folder: Path, stage: int) -> None:
    found = results(folder, "skips", 2)[f"fp16-zero{stage}"]
    first, lowered = found["nan loss"]["scales"]
    assert first == 2.0**16
    assert lowered == first / 2
    assert found["nan gradient"]["scales"] == [lowered, lowered / 2]
    assert found["threshold"]["scales"] == [lowered / 2, lowered / 2]


def test_the_cases_cover_every_pair_of_settings() -> None:
    def rows(cases: list[Case]) -> set[tuple[int, object, int, object]]:
        settings = [(*dataclasses.astuple(case)[:3], *dataclasses.astuple(case.reference)) for case in cases]
        return {(i, row[i], j, row[j]) for row in settings for i, j in itertools.combinations(range(7), 2)}

    assert rows(PAIRWISE) == rows(FULL)
    assert {*RESUMED, *BAD_STEPS} == set(itertools.product(STAGES, ("fp32", "bf16", "fp16")))
    loaded = {(stage, to) for processes in (1, 4) for stage in STAGES for to in loaded_by(stage, processes)}
    assert loaded == set(itertools.product(STAGES, (*STAGES, "local")))
