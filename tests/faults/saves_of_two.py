"""A program for test_saves_of_two.py: saves and loads by two processes of which one fails, printed as JSON by rank 0.

For each scenario: the error of each rank, and the names left in the folder.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.tiny import commit
from videomae.core.distributed import World, distributed_context, end_process
from videomae.run.checkpoint import CheckpointConfig, CheckpointStore, Saver, find_latest, find_resume_point
from videomae.run.checkpoint.staging import becomes_true


class State:
    """A fake engine snapshot: one file per rank, written once `gate` exists, if given."""

    bytes = 1000

    def __init__(self, world: World, fault: Exception | None = None, gate: Path | None = None) -> None:
        self._world, self._fault, self._gate = world, fault, gate

    def write(self, folder: Path) -> None:
        assert self._gate is None or becomes_true(self._gate.exists, timeout=300)
        (folder / f"rank-{self._world.rank}.bin").write_bytes(bytes([self._world.rank]) * 1000)
        if self._fault is not None:
            raise self._fault


def saver(folder: Path, world: World, *, fault: Exception | None = None, gate: Path | None = None, **config) -> Saver:
    """Rank 1 is the one that fails, or waits for `gate`."""
    fault, gate = (fault, gate) if world.rank == 1 else (None, None)
    store = CheckpointStore(folder, world=world, keep=2)
    return Saver(store, CheckpointConfig(**config), every=1, snapshot=lambda earlier: State(world, fault, gate))


def a_rank_cannot_write(folder: Path, world: World) -> None:
    saver(folder, world).save({"step": 1})
    saver(folder, world, fault=OSError(5, "Input/output error"), failures=0).save({"step": 2})


def a_rank_is_out_of_memory(folder: Path, world: World) -> None:
    def take(earlier: State | None) -> State:
        if world.rank == 1:
            raise MemoryError("no room for a copy")
        return State(world)

    store = CheckpointStore(folder, world=world, keep=2)
    Saver(store, CheckpointConfig(failures=0), every=1, snapshot=take).save({"step": 1})


def a_failure_is_tolerated(folder: Path, world: World) -> None:
    saver(folder, world, fault=RuntimeError("torn"), failures=1).save({"step": 1})
    saver(folder, world, failures=1).save({"step": 2})


def a_rank_fails_asynchronously(folder: Path, world: World) -> None:
    ours = saver(folder, world, fault=OSError(28, "No space left on device"), asynchronous=True, failures=0)
    ours.save({"step": 1})
    steps = 0
    while ours.pending:  # a step of training
        time.sleep(0.01)
        steps += 1
        busy, failed = world.any_rank((ours.busy, ours.failed))
        ours.poll(busy=busy, failed=failed)
    raise AssertionError(f"no rank raised in {steps} steps")


def a_rank_writes_slowly(folder: Path, world: World) -> None:
    gate = folder.with_name("gate")
    ours = saver(folder, world, gate=gate, asynchronous=True)
    ours.save({"step": 1})  # returns although rank 1 cannot write yet
    steps = 0
    while ours.pending:
        assert not (folder / "step-00000001").exists()
        time.sleep(0.01)
        steps += 1
        if steps == 12:
            world.main_only(gate.touch)
        busy, failed = world.any_rank((ours.busy, ours.failed))
        ours.poll(busy=busy, failed=failed)
    assert steps >= 12, "training did not continue during the save"
    ours.save({"step": 2})
    ours.save({"step": 3}, must=True)  # waits for the one before it


def both_write_one_file(folder: Path, world: World) -> None:
    commit(CheckpointStore(folder, world=world, keep=1), {"step": 1}, lambda own: (own / "same").write_text("x"))


def a_rank_has_a_folder_of_its_own(folder: Path, world: World) -> None:
    own = folder / f"node-{world.rank}"
    saver(own, world, failures=0).save({"step": 1})


def a_run_starts_in_folders_of_its_nodes(folder: Path, world: World) -> None:
    own = folder / f"node-{world.rank}"
    find_resume_point(CheckpointStore(own, world=world, keep=1), "auto")


def a_rank_sees_other_checkpoints(folder: Path, world: World) -> None:
    saver(folder, world).save({"step": 1})
    own = folder if world.rank == 1 else folder / "elsewhere"
    find_latest(own, world=world)


def damage_is_agreed_upon(folder: Path, world: World) -> None:
    for step in (1, 2):
        saver(folder, world).save({"step": step})
    world.main_only(lambda: (folder / "step-00000002" / "rank-1.bin").write_bytes(bytes(1000)))
    found = find_latest(folder, world=world)
    assert found.checkpoint is not None
    assert world.all_gather_object(found.checkpoint.step) == [1, 1]
    raise ValueError(found.skipped[0])


SCENARIOS: tuple[Callable[[Path, World], None], ...] = (
    a_rank_cannot_write,
    a_rank_is_out_of_memory,
    a_failure_is_tolerated,
    a_rank_fails_asynchronously,
    a_rank_writes_slowly,
    both_write_one_file,
    a_rank_has_a_folder_of_its_own,
    a_run_starts_in_folders_of_its_nodes,
    a_rank_sees_other_checkpoints,
    damage_is_agreed_upon,
)


def main(folder: Path) -> None:
    with distributed_context(os.environ) as world:
        results = {}
        for scenario in SCENARIOS:
            own, error_text = folder / scenario.__name__, ""
            try:
                scenario(own, world)
            except Exception as error:
                error_text = f"{type(error).__name__}: {error}"
            results[scenario.__name__] = {
                "errors": world.all_gather_object(error_text),
                "left": sorted(path.name for path in own.glob("*")) if world.is_main else [],
            }
            world.barrier()
        if world.is_main:
            print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process(0)
