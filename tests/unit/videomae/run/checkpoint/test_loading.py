"""Damaged, foreign and half-deleted checkpoints are reported and quarantined; the latest valid one is used."""

import json
import shutil
from pathlib import Path

import pytest

from tests.rank_threads import on_threads
from tests.tiny import world_of_one
from tests.unit.videomae.run.checkpoint.test_store import found, names, save
from videomae.run.checkpoint import find_fault, find_latest, manifest, verify
from videomae.run.checkpoint.manifest import FileRecord, assign_files

STATE = Path("deep") / "state.bin"


def _damage(folder: Path, kind: str) -> None:
    state, manifest = folder / STATE, folder / "manifest.json"
    if kind == "truncated":
        state.write_bytes(state.read_bytes()[:-1])
    elif kind == "flipped":
        state.write_bytes(b"\xff" + state.read_bytes()[1:])
    elif kind == "missing":
        state.unlink()
    elif kind == "half deleted":
        shutil.rmtree(folder / "deep")
        (folder / "progress.json").unlink()
    elif kind == "no manifest":
        manifest.unlink()
    elif kind == "cut manifest":
        manifest.write_text(manifest.read_text()[:40])
    elif kind == "list for a manifest":
        manifest.write_text("[1]")
    elif kind == "empty manifest":
        manifest.write_text(json.dumps({"files": {}}))
    elif kind == "of another program":
        manifest.write_text(manifest.read_text().replace("videomae-checkpoint-1", "others-7"))
    elif kind == "outside":
        manifest.write_text(manifest.read_text().replace("deep/state.bin", "../step-00000001/deep/state.bin"))
    elif kind == "a file too many":
        (folder / "rank-00009.bin").write_bytes(b"left over")
    elif kind == "foreign folder":
        shutil.rmtree(folder)
        (folder / "global_step2").mkdir(parents=True)
        (folder / "global_step2" / "mp_rank_00_model_states.pt").write_bytes(b"x")
    elif kind == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()


DAMAGES = {
    "truncated": "deep/state.bin has 999 bytes, its manifest says 1000",
    "flipped": "deep/state.bin has changed since it was written",
    "missing": "deep/state.bin is missing",
    "half deleted": "is missing",
    "no manifest": "no readable manifest.json",
    "cut manifest": "no readable manifest.json",
    "list for a manifest": "no readable manifest.json",
    "empty manifest": "progress.json is missing from its manifest.json",
    "of another program": "its manifest.json has the format 'others-7', expected 'videomae-checkpoint-1'",
    "outside": "names '../step-00000001/deep/state.bin', which lies outside",
    "a file too many": "rank-00009.bin is there, but not in its manifest",
    "foreign folder": "no readable manifest.json",
    "empty folder": "no readable manifest.json",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_quarantined(tmp_path: Path, kind: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    _damage(tmp_path / "step-00000002", kind)
    fault = find_fault(tmp_path / "step-00000002")
    assert fault is not None
    assert DAMAGES[kind] in fault
    assert (find_fault(tmp_path / "step-00000002", hashes=False) is None) == (kind == "flipped")
    result = find_latest(tmp_path, world=world_of_one())
    assert result.checkpoint is not None
    assert result.checkpoint.step == 1
    assert result.skipped == (f"step-00000002: {fault}",)
    assert names(tmp_path) == ["damaged-step-00000002", "latest", "step-00000001"]


@pytest.mark.parametrize("kind", DAMAGES)
def test_all_ranks_agree_and_only_one_lists_the_files(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 2)
    folder, looking, looks = tmp_path / "step-00000002", manifest.check_listing, []
    _damage(folder, kind)
    monkeypatch.setattr(manifest, "check_listing", lambda *given: (looks.append(1), looking(*given)))
    found_by = on_threads(4, lambda world: verify(folder, world=world))
    assert found_by == [find_fault(folder)] * 4
    assert DAMAGES[kind] in str(found_by[0])
    assert len(looks) <= 1 + 1, "one rank, and the comparison above"


def test_another_runs_damaged_checkpoints_stay_where_they_are(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    _damage(tmp_path / "step-00000002", "flipped")
    assert find_latest(tmp_path, world=world_of_one(), read_only=True).checkpoint == found(tmp_path)
    assert "damaged-step-00000002" in names(tmp_path)  # by `found`, which quarantines


def test_what_only_looks_like_a_checkpoint_is_not_looked_at(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "step-notes").mkdir()
    (tmp_path / "step-00000007").write_text("a file")
    (tmp_path / "step-00000008-copy").mkdir()
    before = names(tmp_path)
    assert found(tmp_path).step == 1
    assert names(tmp_path) == before


def test_quarantining_twice_keeps_both(tmp_path: Path) -> None:
    for _ in range(2):
        save(tmp_path, 5)
        _damage(tmp_path / "step-00000005", "truncated")
        assert find_latest(tmp_path, world=world_of_one()).checkpoint is None
    assert names(tmp_path) == ["damaged-step-00000005", "damaged-step-00000005-2", "latest"]


def test_ranks_split_the_hashing_evenly() -> None:
    files = {f"rank-{rank}": FileRecord(1000 + rank, "") for rank in range(13)} | {"progress.json": FileRecord(90, "")}
    shares = [assign_files(files, rank=rank, size=4) for rank in range(4)]
    assert sorted(name for share in shares for name in share) == sorted(files)
    loads = [sum(files[name].bytes for name in share) for share in shares]
    assert max(loads) - min(loads) <= 1012
