"""A program for test_saves_of_two.py: saves and loads by two processes of which one fails, printed as JSON by rank 0.

For each scenario: what each rank raised, the names that are left in the folder, and the seconds it took.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from videomae.core.distributed import World, distributed_context, end_process
from videomae.run.checkpoint import CheckpointConfig, CheckpointStore, Saver, newest, starting_point


class State:
    """Stands for an engine's snapshot: one file a rank."""

    bytes = 1000

    def __init__(self, world: World, fault: Exception | None = None, seconds: float = 0.0) -> None:
        self._world, self._fault, self._seconds = world, fault, seconds

    def write(self, folder: Path) -> None:
        time.sleep(self._seconds)
        (folder / f"rank-{self._world.rank}.bin").write_bytes(bytes([self._world.rank]) * 1000)
        if self._fault is not None:
            raise self._fault


def saver(folder: Path, world: World, *, fault: Exception | None = None, seconds: float = 0.0, **config) -> Saver:
    """Rank 1 is the one that fails or is slow."""
    fault, seconds = (fault, seconds) if world.rank == 1 else (None, 0.0)
    store = CheckpointStore(folder, world=world, keep=2)
    return Saver(store, CheckpointConfig(**config), every=1, take=lambda earlier: State(world, fault, seconds))


def a_rank_cannot_write(folder: Path, world: World) -> None:
    saver(folder, world).save({"step": 1})
    saver(folder, world, fault=OSError(5, "Input/output error"), failures=0).save({"step": 2})


def a_rank_is_out_of_memory(folder: Path, world: World) -> None:
    def take(earlier: State | None) -> State:
        if world.rank == 1:
            raise MemoryError("no room for a copy")
        return State(world)

    store = CheckpointStore(folder, world=world, keep=2)
    Saver(store, CheckpointConfig(failures=0), every=1, take=take).save({"step": 1})


def a_failure_is_borne(folder: Path, world: World) -> None:
    saver(folder, world, fault=RuntimeError("torn"), failures=1).save({"step": 1})
    saver(folder, world, failures=1).save({"step": 2})


def a_rank_fails_beside_the_training(folder: Path, world: World) -> None:
    ours = saver(folder, world, fault=OSError(28, "No space left on device"), asynchronous=True, failures=0)
    ours.save({"step": 1})
    steps = 0
    while ours.pending:  # a step of training
        time.sleep(0.01)
        steps += 1
        busy, failed = world.any_rank((ours.busy, ours.failed))
        ours.settle(busy=busy, failed=failed)
    raise AssertionError(f"the failure was not heard of in {steps} steps")


def a_rank_is_slow_beside_the_training(folder: Path, world: World) -> None:
    ours = saver(folder, world, seconds=0.5, asynchronous=True)
    began = time.monotonic()
    ours.save({"step": 1})
    assert time.monotonic() - began < 0.3, "the save did not return at once"
    assert not (folder / "step-00000001").exists()
    steps = 0
    while ours.pending:
        time.sleep(0.01)
        steps += 1
        busy, failed = world.any_rank((ours.busy, ours.failed))
        ours.settle(busy=busy, failed=failed)
    assert steps > 10
    ours.save({"step": 2})
    ours.save({"step": 3}, must=True)  # waits for the one before it


def both_write_one_file(folder: Path, world: World) -> None:
    CheckpointStore(folder, world=world, keep=1).save({"step": 1}, lambda own: (own / "same").write_text("x") and None)


def a_rank_has_a_folder_of_its_own(folder: Path, world: World) -> None:
    own = folder / f"node-{world.rank}"
    saver(own, world, failures=0).save({"step": 1})


def a_run_starts_in_folders_of_its_nodes(folder: Path, world: World) -> None:
    own = folder / f"node-{world.rank}"
    starting_point(CheckpointStore(own, world=world, keep=1), "auto")


def a_rank_sees_other_checkpoints(folder: Path, world: World) -> None:
    saver(folder, world).save({"step": 1})
    own = folder if world.rank == 1 else folder / "elsewhere"
    newest(own, world=world)


def damage_is_agreed_upon(folder: Path, world: World) -> None:
    for step in (1, 2):
        saver(folder, world).save({"step": step})
    world.main_only(lambda: (folder / "step-00000002" / "rank-1.bin").write_bytes(bytes(1000)))
    found = newest(folder, world=world)
    assert found.checkpoint is not None
    assert world.all_gather_object(found.checkpoint.step) == [1, 1]
    raise ValueError(found.passed_over[0])


SCENARIOS: tuple[Callable[[Path, World], None], ...] = (
    a_rank_cannot_write,
    a_rank_is_out_of_memory,
    a_failure_is_borne,
    a_rank_fails_beside_the_training,
    a_rank_is_slow_beside_the_training,
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
            own, said, began = folder / scenario.__name__, "", time.monotonic()
            try:
                scenario(own, world)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            results[scenario.__name__] = {
                "said": world.all_gather_object(said),
                "left": sorted(path.name for path in own.glob("*")) if world.is_main else [],
                "seconds": time.monotonic() - began,
            }
            world.barrier()
        if world.is_main:
            print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process(0)
