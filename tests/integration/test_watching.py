"""What whole runs leave to those who watch them."""

import json
import math
import socket
from pathlib import Path

import pytest

from finetune.train import train as finetune
from pretrain.train import train
from tests.processes import call
from tests.stages import finetune_config, losses, pretrain_config
from tests.tiny import world_of_one
from videomae.run.metrics import read_metrics
from videomae.run.metrics.wandb_sync import CONNECT_SECONDS


def test_a_pretraining_run_logs_both_errors_the_work_and_the_pictures(pretrained: Path) -> None:
    lines = read_metrics(pretrained / "metrics.jsonl")
    train_lines = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train_lines] == [1, 2, 3, 4, 5, 6]
    for line in train_lines:
        assert line["pixel_loss"] == pytest.approx(line["loss"])  # the demo trains on plain pixels
        assert line["normalized_loss"] > line["pixel_loss"]
        assert line["loss_max"] == line["loss"]
        assert 0 <= line["data_percent"] <= 100
        assert line["teraflops"] > 0
        assert line["memory_gb"] > 0.05
    cost = json.loads((pretrained / "cost.json").read_text())
    assert {"encoder", "decoder"} == set(cost["training_gmacs_per_clip"])
    pictures = [(line["step"], line["files"]) for line in lines if line["kind"] == "reconstructions"]
    assert [step for step, _ in pictures] == [2, 4, 6]
    assert all((pretrained / file).is_file() for _, files in pictures for file in files)
    assert [line["step"] for line in lines if line["kind"] == "checkpoint"] == [2, 4, 6]
    assert "visualizations_seconds" in train_lines[2]


def test_the_view_of_a_finished_run(pretrained: Path) -> None:
    found = json.loads(call("watch", pretrained, "--json"))
    assert (found["state"], found["step"], found["total"]) == ("finished", 6, 6)
    assert "step 6 of 6 (100%)" in call("watch", pretrained, "--once", "--width", "80")


def test_without_a_server_of_wandb_the_run_is_the_same(
    pretrained: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one that accepts connections and never answers; what that costs is bounded in test_wandb_sync.py."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setitem(CONNECT_SECONDS, "online", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        train(pretrain_config(tmp_path / "run", shards, "metrics.wandb=online"), world_of_one())
    assert "W&B did not finish" in (tmp_path / "run/logs/rank-0.log").read_text()
    assert losses(tmp_path / "run") == losses(pretrained)


def test_a_profiler_window_of_the_config_leaves_its_trace(shards: Path, tmp_path: Path) -> None:
    config = pretrain_config(tmp_path / "run", shards, "metrics.profile={start: 2, steps: 2}", "visualizations=0")
    train(config, world_of_one())
    trace = json.loads((tmp_path / "run/profile/rank-0-steps-2-3.json").read_text())
    assert any("attention" in event.get("name", "") for event in trace["traceEvents"])
    assert "aten::" in (tmp_path / "run/profile/rank-0-steps-2-3.txt").read_text()


def test_a_classifier_that_learns_nothing_is_told_and_evaluations_stand_apart(shards: Path, tmp_path: Path) -> None:
    overrides = ("optimizer.lr=1e-12", "schedule.duration=30 steps", "evaluation.every=20 steps", "layer_decay=0.5")
    run = finetune(finetune_config(tmp_path / "run", shards, *overrides), world_of_one())
    logged = run.log(0).read_text().splitlines()
    (warning,) = [line for line in logged if "guessing among 2 classes gives 0.693" in line]
    assert "model.weights" in warning
    lines = read_metrics(run.metrics)
    after = next(line for line in lines if line["kind"] == "train" and line["step"] == 21)
    evaluation = next(line for line in lines if line["kind"] == "evaluation")
    assert after["evaluation_seconds"] > 0
    assert evaluation["seconds"] > 0
    assert after["lr_min"] == pytest.approx(after["lr"] * 0.5**3)
    assert all(math.isfinite(line["loss"]) for line in lines if line["kind"] == "train")
