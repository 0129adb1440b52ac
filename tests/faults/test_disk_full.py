"""A full disk: a clear error, nothing half-written, what was there stays. A small tmpfs is the disk; root mounts it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pretrain.train import train
from tests.conftest import SYNTHESIZED
from tests.processes import call
from tests.stages import at_step, losses, pretrain_arguments, pretrain_config
from tests.tiny import world_of_one
from videomae.run.checkpoint import find_fault
from videomae.run.metrics import read_metrics


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and os.geteuid() == 0
    if not mounted or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_checkpoint_that_does_not_fit_loses_nothing(shards: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 3) as disk:
        run = disk / "run"
        # 0.1 M parameters: with the optimizer's state a checkpoint takes 1.1 MB, so two fit and three do not
        settings = ("checkpoint={every: 1 steps, keep: 9}", "visualizations=0")
        said = call("pretrain", *pretrain_arguments(run, shards, *settings), expect=1)
        assert "checkpoint not saved, earlier ones are kept" in said
        assert "free space below" in said
        kept = sorted(run.glob("checkpoints/step-*"))
        assert kept
        assert all(find_fault(folder) is None for folder in kept)
        assert not list(run.glob("checkpoints/.staging"))
        shutil.rmtree(kept[0])  # the user frees space, and the same command goes on
        settings = ("checkpoint={every: 1 steps, keep: 1}", "visualizations=0")
        call("pretrain", *pretrain_arguments(run, shards, *settings))
        assert len(losses(run)) == 6


def test_a_start_on_a_full_disk_loses_nothing_and_says_so(shards: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 6) as disk:
        run, ballast = disk / "run", disk / "ballast"
        settings = ("checkpoint={every: 2 steps, keep: 1}", "visualizations=0")
        call("pretrain", *pretrain_arguments(run, shards, *settings, "schedule.duration=3 steps"))
        (run / "summary.json").unlink()  # as if it had been killed after its last step
        names = ("config.yaml", "metrics.jsonl", "environment.json")
        before = {name: (run / name).read_bytes() for name in names}
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        words = pretrain_arguments(run, shards, *settings, "schedule.duration=3 steps")
        said = call("pretrain", *words, expect=1)
        assert f"error: {run}/" in said
        assert "no space left on this disk; free some" in said
        assert {name: (run / name).read_bytes() for name in names} == before
        ballast.unlink()
        call("pretrain", *words)
        assert len(losses(run)) == 3


def test_a_disk_that_is_full_for_a_while_costs_no_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        run, ballast = disk / "run", disk / "ballast"
        ballast.write_bytes(bytes(3_000_000))
        at_step(monkeypatch, 15, ballast.unlink)
        saving = "checkpoint={every: 10 steps, keep: 1, failures: 1000}"
        train(pretrain_config(run, shards, saving, "schedule.duration=30 steps", "visualizations=0"), world_of_one())
        logged = (run / "logs/rank-0.log").read_text().splitlines()
        assert any("ALARM" in line and "MB of space left" in line for line in logged)
        saves = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "checkpoint"]
        assert "space left" in saves[0]["fault"]
        assert "fault" not in saves[-1]
        assert [path.name for path in run.glob("checkpoints/step-*")] == ["step-00000030"]


def test_shards_that_do_not_fit_leave_nothing(videos: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        (disk / "ballast").write_bytes(bytes(900_000))
        said = call("shards", "build", videos, disk / "shards", "--workers", "1", expect=2)
        assert "space" in said
        assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_synthetic_videos_that_do_not_fit_leave_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        (disk / "ballast").write_bytes(bytes(900_000))
        said = call("shards", "synthesize", disk / "videos", *SYNTHESIZED, "--workers", "1", expect=2)
        assert "space" in said
        assert [path.name for path in disk.iterdir()] == ["ballast"]
