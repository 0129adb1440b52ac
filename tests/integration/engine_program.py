"""A program for test_engine.py: many engines, one after another, in one process group.

Arguments: folder, jobs. Rank 0 of N processes writes `JOB-N.json` to the folder for each job.
"""

import json
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any, Self

import torch

from tests.engine_cases import (
    BAD_STEPS,
    FULL,
    MATRIX_STEPS,
    PAIRWISE,
    RESUMED,
    STAGES,
    STEPS,
    Case,
    Reference,
    loaded_by,
)
from tests.engine_runs import make_engine, run_step, run_steps, saved
from videomae.core.distributed import World, distributed_context, end_process
from videomae.engine.protocol import Engine
from videomae.engine.state.rank_file import RankFile
from videomae.engine.state.reader import read_full
from videomae.engine.state.snapshot import Snapshot

FULL_REFERENCE = Reference(clip=True, ema=True, decay=True, muon=True)
KEYS = ("master", "exp_avg", "exp_avg_sq", "ema")


def cases(world: World, folder: Path, chosen: list[Case], *, steps: int) -> dict[str, Any]:
    """Run the steps of each case, and store its full state."""
    results = {}
    for case in (case for case in chosen if case.processes == world.size):
        engine = make_engine(
            world, case.reference, accumulation=case.accumulation, kind="deepspeed", zero_stage=case.stage
        )
        results[case.name] = run_steps(engine, accumulation=case.accumulation, count=steps)
        store_full(engine, folder / case.name, ema=case.reference.ema)
    return results


def store_full(engine: Engine, path: Path, *, ema: bool) -> None:
    """Store the module's full state and, if there is one, its EMA."""
    state = {f"master.{name}": value for name, value in engine.full_state().items()}
    if ema:
        state |= {f"ema.{name}": value for name, value in engine.full_state(ema=True).items()}
    if engine.world.is_main:
        torch.save(state, path)


def equal(one: Snapshot, other: Snapshot, *, ignore: tuple[str, ...] = ()) -> bool:
    """Whether two snapshots are bit-equal."""
    names = one.tensors.keys() - set(ignore)
    return names == other.tensors.keys() - set(ignore) and all(
        torch.equal(one.tensors[name], other.tensors[name]) for name in names
    )


def resume(world: World, folder: Path) -> dict[str, Any]:
    """For each of `RESUMED`: three steps, a save, three more; a new engine loads, continues, and loads again."""
    results = {}
    for stage, precision in RESUMED:
        settings = {"kind": "deepspeed", "zero_stage": stage, "precision": precision}
        engine = make_engine(world, FULL_REFERENCE, **settings)
        run_steps(engine, count=3)
        place = saved(engine, folder / f"state-{world.size}-{stage}-{precision}")
        whole = run_steps(engine, first=3, count=3)
        other = make_engine(world, FULL_REFERENCE, seed=1, **settings)
        other.load(place)
        loaded = saved(other, folder / f"again-{world.size}-{stage}-{precision}")
        resumed = run_steps(other, first=3, count=3)
        results[f"{precision}-zero{stage}"] = {
            "whole": whole,
            "resumed": resumed,
            "same": all(world.all_gather_object(equal(engine.snapshot(), other.snapshot()))),
            "stored": equal_on_disk(place, loaded),
        }
        other.load(place)  # as a rollback does
        results[f"{precision}-zero{stage}"]["again"] = run_steps(other, first=3, count=3)
    return results


def equal_on_disk(one: Path, other: Path) -> bool:
    """Whether two folders hold the same state, however it is sharded."""
    pairs = [(read_full(one, key), read_full(other, key)) for key in KEYS]
    return all(
        left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
        for left, right in pairs
    )


def reshard(world: World, folder: Path, *, source: int) -> dict[str, Any]:
    """Load the state of `source` processes at each stage into every engine here, and write it again."""
    results = {}
    for stage in STAGES:
        place = folder / f"state-{source}-{stage}-bf16"
        for other in loaded_by(stage, world.size):
            settings: dict[str, Any] = (
                {"kind": "local"} if other == "local" else {"kind": "deepspeed", "zero_stage": other}
            )
            precision = "fp32" if other == "local" else "bf16"
            engine = make_engine(world, FULL_REFERENCE, seed=1, precision=precision, **settings)
            with Reads() as reads:
                engine.load(place)
            again = saved(engine, folder / f"{source}-{stage}-to-{world.size}-{other}")
            results[f"zero{stage}-to-{other}"] = {
                "equal": equal_on_disk(place, again),
                "opened": world.all_gather_object(reads.opened),
                "bytes": world.all_gather_object(reads.bytes),
                "stored": sum(file.stat().st_size for file in place.glob("rank-*")),
            }
    return results


class Reads:
    """Counts state files opened and bytes read by this process within the context."""

    def __enter__(self) -> Self:
        self.opened, self.bytes = 0, 0
        self._methods = RankFile.__init__, RankFile._fill
        reads = self

        def opened(self: RankFile, folder: Path, rank: int) -> None:
            reads.opened += 1
            reads._methods[0](self, folder, rank)

        def filled(self: RankFile, buffer: memoryview, offset: int) -> None:
            reads.bytes += len(buffer)
            reads._methods[1](self, buffer, offset)

        RankFile.__init__, RankFile._fill = opened, filled
        return self

    def __exit__(self, *error: object) -> None:
        RankFile.__init__, RankFile._fill = self._methods


def travel(world: World, folder: Path, *, place: str, stage: int, first: int, to: str) -> dict[str, Any]:
    """Load the state at `place`, run three steps in float32, and save to `to`."""
    engine = make_engine(world, FULL_REFERENCE, seed=first, kind="deepspeed", zero_stage=stage)
    if first:
        engine.load(folder / place)
    results = run_steps(engine, first=first, count=3)
    saved(engine, folder / to)
    return results


def skips(world: World, folder: Path) -> dict[str, Any]:
    """For each of `BAD_STEPS`: steps that must change nothing, by a fault of one rank or the skip threshold."""
    results = {}
    for stage, precision in BAD_STEPS:
        settings = {"kind": "deepspeed", "zero_stage": stage, "precision": precision}
        results[f"{precision}-zero{stage}"] = skip(world, settings)
    return results


def skip(world: World, settings: dict[str, Any]) -> dict[str, Any]:
    last = world.rank == world.size - 1
    faults = {
        "nan loss": {"alter": lambda loss, number: loss * math.nan if last and number == 1 else loss},
        "nan gradient": {"alter": lambda loss, number: break_gradient(loss) if last and number == 0 else loss},
        "threshold": {"skip_threshold": 1e-9},
    }
    engine, reference = (make_engine(world, FULL_REFERENCE, accumulation=2, **settings) for _ in range(2))
    step_on(engine, 0)
    step_on(reference, 0)
    results: dict[str, Any] = {}
    for name, fault in faults.items():
        before = engine.snapshot()
        update = run_step(engine, 1, accumulation=2, **fault)
        results[name] = {
            "same": all(world.all_gather_object(equal(before, engine.snapshot(), ignore=("scaler",)))),
            "skipped": world.all_gather_object(update.skipped.item()),
            "finite": [math.isfinite(norm) for norm in world.all_gather_object(update.grad_norm.item())],
        }
        results[name]["scales"] = [scale_of(before), scale_of(engine.snapshot())]
    after, straight = step_on(engine, 2), step_on(reference, 2)
    results["after"] = {"skipped": after.skipped.item(), "losses": [after.loss.item(), straight.loss.item()]}
    if settings["precision"] != "fp16":  # whose lowered scale changes the rounding
        results["after"]["same"] = all(world.all_gather_object(equal(engine.snapshot(), reference.snapshot())))
    return results


def break_gradient(loss: torch.Tensor) -> torch.Tensor:
    """Return the same loss with a NaN gradient: infinity, of the square root at 0, times 0."""
    return loss + (loss - loss.detach()).abs().sqrt()


def step_on(engine: Engine, step: int) -> Any:
    return run_step(engine, step, accumulation=2)


def scale_of(snapshot: Snapshot) -> float | None:
    return snapshot.tensors["scaler"][0].item() if "scaler" in snapshot.tensors else None


JOBS = {
    "pairwise": lambda world, folder: cases(world, folder, PAIRWISE, steps=STEPS),
    "full": lambda world, folder: cases(world, folder, FULL, steps=MATRIX_STEPS),
    "resume": resume,
    "reshard": lambda world, folder: reshard(world, folder, source=2),
    "begin": lambda world, folder: travel(world, folder, place="", stage=1, first=0, to="after-3"),
    "middle": lambda world, folder: travel(world, folder, place="after-3", stage=3, first=3, to="after-6"),
    "end": lambda world, folder: travel(world, folder, place="after-6", stage=0, first=6, to="after-9"),
    "skips": skips,
}


def main(folder: Path, jobs: list[str]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with distributed_context(os.environ) as world:
        from deepspeed.accelerator import get_accelerator

        accelerator: Any = get_accelerator()
        accelerator.is_fp16_supported = lambda: True  # slow on a CPU, but correct
        for job in jobs:
            results = JOBS[job](world, folder)
            if world.is_main:
                (folder / f"{job}-{world.size}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    main(Path(sys.argv[1]), sys.argv[2:])
    end_process(0)
