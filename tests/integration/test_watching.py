"""What whole runs leave to those who watch them."""

import json
import logging
import math
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.train import train as finetune
from pretrain.train import train
from tests.processes import run_command
from tests.stages import finetune_config, losses, pretrain_config
from tests.tiny import world_of_one
from videomae.run.metrics import MetricsLog, read_metrics


@pytest.fixture(scope="module")
def plain(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without W&B."""
    run = tmp_path_factory.mktemp("plain") / "run"
    train(pretrain_config(run, shards, "checkpoint.every=3 steps", "visualize_every=2 steps"), world_of_one())
    return run


def test_a_pretraining_run_logs_both_errors_the_work_and_the_pictures(plain: Path) -> None:
    lines = read_metrics(plain / "metrics.jsonl")
    train_lines = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train_lines] == [1, 2, 3, 4, 5, 6]
    for line in train_lines:
        assert line["pixel_loss"] == pytest.approx(line["loss"])  # the demo trains on plain pixels
        assert line["normalized_loss"] > line["pixel_loss"]
        assert line["loss_max"] == line["loss"]
        assert 0 <= line["data_percent"] <= 100
        assert line["teraflops"] > 0
        assert line["memory_gb"] > 0.05
    cost = json.loads((plain / "cost.json").read_text())
    assert {"encoder", "decoder"} == set(cost["training_gmacs_per_clip"])
    pictures = [(line["step"], line["files"]) for line in lines if line["kind"] == "reconstructions"]
    assert [step for step, _ in pictures] == [2, 4, 6]
    assert all((plain / file).is_file() for _, files in pictures for file in files)
    assert [line["step"] for line in lines if line["kind"] == "checkpoint"] == [3, 6]
    assert "visualizations_seconds" in train_lines[2]


def test_the_view_of_a_finished_run(plain: Path) -> None:
    found = json.loads(run_command("launch", "watch", plain, "--json"))
    assert (found["state"], found["step"], found["total"]) == ("finished", 6, 6)
    text = run_command("launch", "watch", plain, "--once", "--width", "80")
    assert "step 6 of 6 (100%)" in text


@pytest.fixture
def mute_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("address", ["dead", "mute"])
def test_without_a_server_of_wandb_the_run_is_the_same_and_little_slower(
    plain: Path,
    shards: Path,
    tmp_path: Path,
    mute_server: str,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", mute_server if address == "mute" else "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    spent = 0.0

    def timed(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **keywords: Any) -> None:
            nonlocal spent
            start = time.monotonic()
            method(*arguments, **keywords)
            spent += time.monotonic() - start

        return call

    monkeypatch.setattr(MetricsLog, "write", timed(MetricsLog.write))
    monkeypatch.setattr(MetricsLog, "close", timed(MetricsLog.close))
    train(pretrain_config(tmp_path / "run", shards, "metrics.wandb=online"), world_of_one())
    assert 3.5 < spent < 9  # all that W&B can cost: four seconds at the end
    assert losses(tmp_path / "run") == losses(plain)


def test_a_profiler_window_of_the_config_leaves_its_trace(shards: Path, tmp_path: Path) -> None:
    config = pretrain_config(tmp_path / "run", shards, "metrics.profile={start: 2, steps: 2}", "visualizations=0")
    train(config, world_of_one())
    trace = json.loads((tmp_path / "run/profile/rank-0-steps-2-3.json").read_text())
    assert any("attention" in event.get("name", "") for event in trace["traceEvents"])
    assert "aten::" in (tmp_path / "run/profile/rank-0-steps-2-3.txt").read_text()


def test_a_classifier_that_learns_nothing_is_told_and_evaluations_are_no_training_time(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.evaluate import Evaluator

    evaluate = Evaluator.__call__

    def slowly(self: Evaluator, *arguments, **keywords):
        time.sleep(0.5)
        return evaluate(self, *arguments, **keywords)

    monkeypatch.setattr(Evaluator, "__call__", slowly)
    overrides = ("optimizer.lr=1e-12", "schedule.duration=30 steps", "evaluation.every=20 steps", "layer_decay=0.5")
    config = finetune_config(tmp_path / "run", shards, *overrides)
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener = Listener()
    monkeypatch.setattr("videomae.run.metrics.recorder.logger", logging.getLogger("tests.watching"))
    logging.getLogger("tests.watching").addHandler(listener)
    finetune(config, world_of_one())
    (warning,) = [message for message in messages if "guessing among 2 classes gives 0.693" in message]
    assert "model.weights" in warning
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    after = next(line for line in lines if line["kind"] == "train" and line["step"] == 21)
    evaluation = next(line for line in lines if line["kind"] == "evaluation")
    assert after["evaluation_seconds"] >= 0.5
    assert evaluation["seconds"] >= 0.5
    assert after["seconds"] < after["evaluation_seconds"] + 0.5
    assert after["lr_min"] == pytest.approx(after["lr"] * 0.5**3)
    assert all(math.isfinite(line["loss"]) for line in lines if line["kind"] == "train")
