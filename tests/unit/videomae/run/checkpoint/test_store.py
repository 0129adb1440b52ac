"""Checkpoints on disk: atomic commits, failed saves, removal of old ones, recovery from kills."""

import json
from pathlib import Path

import pytest

from tests.processes import run_command
from tests.tiny import commit, world_of_one
from videomae.run.checkpoint import Checkpoint, CheckpointStore, SaveError, find_fault, find_latest
from videomae.run.checkpoint.store import steps_to_remove


def store(folder: Path, *, keep: int = 3, keep_every: int | None = None) -> CheckpointStore:
    return CheckpointStore(folder, world=world_of_one(), keep=keep, keep_every=keep_every)


def save(folder: Path, step: int, *, keep: int = 3, keep_every: int | None = None) -> None:
    def write(staging: Path) -> None:
        (staging / "deep").mkdir()
        (staging / "deep" / "state.bin").write_bytes(bytes([step % 256]) * 1000)

    commit(store(folder, keep=keep, keep_every=keep_every), {"step": step}, write)


def found(folder: Path) -> Checkpoint:
    checkpoint = find_latest(folder, world=world_of_one()).checkpoint
    assert checkpoint is not None
    return checkpoint


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_latest_is_found_and_old_ones_are_removed(tmp_path: Path) -> None:
    assert find_latest(tmp_path, world=world_of_one()).checkpoint is None
    for step in (1, 2, 3, 10):
        save(tmp_path, step, keep=2)
    assert found(tmp_path).step == 10
    assert names(tmp_path) == ["latest", "step-00000003", "step-00000010"]
    assert (tmp_path / "latest").read_text() == "step-00000010\n"


def test_permanent_checkpoints() -> None:
    steps: list[int] = []
    for step in range(30, 1000, 30):
        steps.append(step)
        for old in steps_to_remove(steps, newest=step, keep=2, keep_every=100):
            steps.remove(old)
    assert steps == [120, 210, 300, 420, 510, 600, 720, 810, 900, 960, 990]  # the first at or after each hundred
    assert steps_to_remove([10, 20, 30, 900], newest=30, keep=1, keep_every=None) == [10, 20]
    assert steps_to_remove([10], newest=10, keep=5, keep_every=7) == []


def test_milestones_stay_on_disk(tmp_path: Path) -> None:
    for step in range(2, 14, 2):
        save(tmp_path, step, keep=1, keep_every=5)
    assert names(tmp_path) == ["latest", "step-00000006", "step-00000010", "step-00000012"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("torn"), MemoryError("much")])
def test_a_failed_save_leaves_only_the_old_one(tmp_path: Path, error: Exception) -> None:
    save(tmp_path, 1)

    def fail(staging: Path) -> None:
        (staging / "half").write_bytes(b"half")
        raise error

    with pytest.raises(SaveError, match=r"rank 0: .*(No space left|torn|much).*free space"):
        commit(store(tmp_path), {"step": 2}, fail)
    assert names(tmp_path) == ["latest", "step-00000001"]
    assert find_fault(tmp_path / "step-00000001") is None


def test_space_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(SaveError, match=r"takes 1000000000000\.1 MB and there are \d+\.\d MB of space left"):
        commit(store(tmp_path), {"step": 2}, lambda staging: pytest.fail("was written"), size=10**18)
    assert names(tmp_path) == ["latest", "step-00000001"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 7)
    save(tmp_path, 7)
    assert names(tmp_path) == ["latest", "step-00000007"]
    assert find_fault(tmp_path / "step-00000007") is None


def test_damaged_later_steps_do_not_push_out_a_new_save(tmp_path: Path) -> None:
    save(tmp_path, 300, keep=1)
    (tmp_path / "step-00000300" / "deep" / "state.bin").unlink()
    save(tmp_path, 150, keep=1)
    assert found(tmp_path).step == 150
    assert names(tmp_path) == ["damaged-step-00000300", "latest", "step-00000150"]


def test_a_rollback_renames_later_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    earlier = find_latest(tmp_path, world=world_of_one(), at_most=2).checkpoint
    assert earlier is not None
    assert earlier.step == 2
    store(tmp_path).abandon_after(1)
    assert found(tmp_path).step == 1
    assert names(tmp_path) == ["abandoned-step-00000002", "abandoned-step-00000003", "latest", "step-00000001"]


def test_a_kill_at_any_point_of_a_save_leaves_a_valid_one(tmp_path: Path) -> None:
    """Every flush, rename, removal and new folder is a point."""
    points = json.loads(run_command("tests.unit.videomae.run.checkpoint.killed_saves", tmp_path))
    assert len(points) > 40
    assert set(points) == {1, 2}
    for point, saved in enumerate(points, start=1):
        folder = tmp_path / str(point)
        store(folder).recover()
        assert {name for name in names(folder) if not name.startswith("step-")} <= {"latest"}, f"point {point}"
        assert found(folder).step in (saved, saved + 1), f"point {point}"
        save(folder, 9, keep=1)
        assert found(folder).step == 9, f"point {point}"
        assert names(folder) == ["latest", "step-00000009"], f"point {point}"


@pytest.mark.parametrize("moment", ["before it writes", "before it moves its files", "before it commits"])
def test_a_process_believed_dead_leaves_the_save_of_the_next_start_alone(tmp_path: Path, moment: str) -> None:
    save(tmp_path, 5)
    old, new = (store(tmp_path) for _ in range(2))
    late, other = old.stage({"step": 7}), new.stage({"step": 7})

    def write(folder: Path) -> None:
        (folder / "state.bin").write_bytes(b"old")
        if moment == "before it moves its files":
            other.prepare(lambda: 0)

    late.prepare(lambda: 0)
    if moment == "before it writes":
        other.prepare(lambda: 0)
    filled = late.write_part(write)
    if moment == "before it commits":
        other.prepare(lambda: 0)
    # While it writes, it finds its own folder gone.
    with pytest.raises(SaveError, match=r"another start of this run has taken the staging folder|No such file"):
        old.commit(late, late.collect(filled))

    def write_new(folder: Path) -> None:
        (folder / "state.bin").write_bytes(b"new")

    new.commit(other, other.collect(other.write_part(write_new)))
    assert (found(tmp_path).folder / "state.bin").read_bytes() == b"new"
    assert names(tmp_path) == ["latest", "step-00000005", "step-00000007"]
