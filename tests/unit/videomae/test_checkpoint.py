"""Checkpoints: whole or not there, the newest whole one wins, a failed save loses nothing."""

import json
from pathlib import Path

import pytest

from tests.tiny import world_of_one
from videomae.checkpoint import CheckpointStore, find_fault


def store(folder: Path, *, keep: int = 3) -> CheckpointStore:
    return CheckpointStore(folder, world=world_of_one(), keep=keep)


def save(folder: Path, step: int, *, keep: int = 3) -> None:
    def write(staging: Path) -> None:
        (staging / "deep").mkdir()
        (staging / "deep" / "state.bin").write_bytes(bytes([step % 256]) * 1000)

    store(folder, keep=keep).save({"step": step}, write)


def test_the_newest_is_found_and_old_ones_go(tmp_path: Path) -> None:
    assert store(tmp_path).newest() is None
    for step in (1, 2, 3, 10):
        save(tmp_path, step, keep=2)
    newest = store(tmp_path).newest()
    assert newest is not None
    assert newest.step == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000010"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "no manifest", "garbage manifest", "empty"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    folder = tmp_path / "step-00000002"
    state = folder / "deep" / "state.bin"
    if damage == "truncated":
        state.write_bytes(state.read_bytes()[:-1])
    elif damage == "flipped":
        state.write_bytes(b"\xff" + state.read_bytes()[1:])
    elif damage == "missing":
        state.unlink()
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "garbage manifest":
        (folder / "manifest.json").write_text("[1")
    else:
        (folder / "manifest.json").write_text(json.dumps({"files": {}}))
    assert find_fault(folder)
    newest = store(tmp_path).newest()
    assert newest is not None
    assert newest.step == 1


def test_a_failed_save_leaves_the_old_one_and_no_debris(tmp_path: Path) -> None:
    save(tmp_path, 1)

    def fail(staging: Path) -> None:
        (staging / "half").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left.*free space"):
        store(tmp_path).save({"step": 2}, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert find_fault(tmp_path / "step-00000001") is None


def test_a_kill_during_the_save_leaves_the_old_one(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".staging").mkdir()
    (tmp_path / ".staging" / "half").write_bytes(b"half")
    newest = store(tmp_path).newest()
    assert newest is not None
    assert newest.step == 1
    save(tmp_path, 2)
    assert not (tmp_path / ".staging").exists()


def test_damaged_later_steps_do_not_push_out_a_new_save(tmp_path: Path) -> None:
    save(tmp_path, 300, keep=1)
    (tmp_path / "step-00000300" / "deep" / "state.bin").unlink()
    save(tmp_path, 150, keep=1)
    newest = store(tmp_path).newest()
    assert newest is not None
    assert newest.step == 150


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 7)
    save(tmp_path, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    assert find_fault(tmp_path / "step-00000007") is None
