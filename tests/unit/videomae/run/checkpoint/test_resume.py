"""checkpoint.resume: auto, must, never and a path."""

from pathlib import Path

import pytest

from tests.tiny import world_of_one
from tests.unit.videomae.run.checkpoint.test_store import save
from videomae.run.checkpoint import CheckpointError, CheckpointStore, find_resume_point


def start(folder: Path, resume: str) -> int | None:
    checkpoint = find_resume_point(CheckpointStore(folder, world=world_of_one(), keep=2), resume)
    return None if checkpoint is None else checkpoint.step


def _break(folder: Path) -> None:
    (folder / "deep" / "state.bin").unlink()


def test_auto_and_must_take_the_latest_valid_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    _break(tmp_path / "step-00000003")
    assert start(tmp_path, "auto") == 2
    assert start(tmp_path, "must") == 2


def test_only_auto_and_never_start_from_scratch(tmp_path: Path) -> None:
    assert start(tmp_path / "new", "auto") is None
    assert start(tmp_path / "new", "never") is None
    with pytest.raises(CheckpointError, match=r"resume=must: no valid checkpoint in .*no such folder.*resume=auto"):
        start(tmp_path / "new", "must")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="it holds none"):
        start(tmp_path / "empty", "must")


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_damaged_checkpoints_are_never_discarded_silently(tmp_path: Path, resume: str) -> None:
    save(tmp_path, 1)
    _break(tmp_path / "step-00000001")
    with pytest.raises(CheckpointError, match=r"step-00000001: deep/state\.bin is missing.*run=PATH"):
        start(tmp_path, resume)
    with pytest.raises(CheckpointError, match="only damaged-step-00000001"):  # nor at the next start
        start(tmp_path, resume)


def test_never_refuses_to_lose_what_is_there(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints up to step-00000002.*run=PATH.*resume=auto"):
        start(tmp_path, "never")


def test_a_path_is_read_and_own_checkpoints_come_first(tmp_path: Path) -> None:
    other = tmp_path / "other" / "checkpoints"
    for step in (1, 2, 3):
        save(other, step)
    _break(other / "step-00000003")
    run = tmp_path / "run"
    assert start(run, str(tmp_path / "other")) == 2
    assert start(run, str(other)) == 2
    assert start(run, str(other / "step-00000001")) == 1
    assert (other / "step-00000003").exists()  # the other run's folder is only read
    save(run, 7)
    assert start(run, str(other / "step-00000001")) == 7  # the same command after a stop


def test_a_path_without_a_valid_checkpoint_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other" / "checkpoints"
    save(other, 1)
    _break(other / "step-00000001")
    for path in (tmp_path / "other", other / "step-00000001", tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match=r"checkpoint\.resume=.*no valid checkpoint"):
            start(tmp_path / "run", str(path))
    with pytest.raises(CheckpointError, match="auto, must, never"):  # nor a misspelled mode
        start(tmp_path / "run", "atuo")


def test_an_interrupted_rename_is_completed(tmp_path: Path) -> None:
    save(tmp_path, 4)
    (tmp_path / "step-00000004").rename(tmp_path / ".replaced")
    assert start(tmp_path, "must") == 4
