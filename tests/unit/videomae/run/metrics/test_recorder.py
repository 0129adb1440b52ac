"""What a line of metrics.jsonl says of the steps since the last one."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import world_of_one
from videomae.engine.protocol import StepResult
from videomae.engine.schedule import ScheduleConfig, make_schedule
from videomae.run.config import TrainingConfig
from videomae.run.metrics import MetricsConfig, read_metrics
from videomae.run.metrics.meter import Workload
from videomae.run.metrics.plateau import WINDOW, TrivialLoss
from videomae.run.metrics.recorder import Recorder

SCHEDULE = make_schedule(
    ScheduleConfig(duration="50 steps", warmup="2 steps"), peak_lr=1e-3, steps_per_epoch=10, batch=4
)
WORK = Workload(
    multiply_adds={"encoder": 3 * 10**9, "decoder": 10**9},
    parameters=7,
    lr_min_scale=0.25,
    trivial=TrivialLoss(key="normalized_loss", value=1.0, answer="the mean", advice="raise the rate"),
)


def recorder_in(folder: Path, **settings: Any) -> Recorder:
    config = TrainingConfig(run=str(folder), batch=4, metrics=MetricsConfig(wandb="disabled", **settings))
    return Recorder(config, world=world_of_one(), schedule=SCHEDULE, workload=WORK)


def update(loss: float, *, skipped: bool = False) -> StepResult:
    return StepResult(torch.tensor(loss), torch.tensor(loss + 1), torch.tensor(2.0), torch.tensor(int(skipped)))


def train(recorder: Recorder, steps: range, *, loss: float = 0.5, skipped: tuple[int, ...] = ()) -> None:
    for step in steps:
        with recorder.data_wait(step):
            pass
        recorder.record(step, update(loss, skipped=step in skipped), {"normalized_loss": torch.tensor(loss)})


def test_a_line_has_every_figure(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path, every=5, peak_tflops=1e-6)
    (tmp_path / "quarantine.jsonl").write_text("{}\n{}\n")
    with recorder.exclude_time("evaluation"):
        pass
    train(recorder, range(5), skipped=(1, 3))
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert list(line) == [
        *("kind", "step", "epoch", "loss", "loss_max", "normalized_loss", "grad_norm", "lr", "lr_min"),
        *("seconds", "step_seconds", "samples_per_second", "data_seconds", "data_percent", "teraflops", "mfu"),
        *("evaluation_seconds", "memory_gb", "skipped", "quarantined"),
    ]
    assert (line["step"], line["epoch"], line["loss"], line["loss_max"]) == (5, 0.5, 0.5, 1.5)
    assert line["lr_min"] == pytest.approx(line["lr"] / 4)
    assert (line["skipped"], line["quarantined"]) == (2, 2)
    assert line["teraflops"] == pytest.approx(line["samples_per_second"] * 8e9 / 1e12, rel=1e-3)
    assert line["mfu"] == pytest.approx(line["teraflops"] / 1e-6, rel=1e-3)


def test_the_last_step_is_logged_and_skips_are_counted_once(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path, every=20)
    train(recorder, range(50), skipped=(7, 30, 49))
    assert [(line["step"], line["skipped"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [
        (20, 1),
        (40, 1),
        (50, 1),
    ]


def test_going_back_cuts_the_file_and_forgets_the_skips_since(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path, every=5)
    train(recorder, range(13), skipped=(11, 12))
    recorder.truncate(5)
    train(recorder, range(5, 10))
    assert [(line["step"], line["skipped"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [(5, 0), (10, 0)]


def test_a_loss_that_sits_at_the_trivial_value_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("videomae"), "propagate", True)
    recorder = recorder_in(tmp_path, every=1)
    train(recorder, range(2 + WINDOW + 10), loss=1.003)
    (record,) = {record for record in caplog.records if "learnt nothing" in record.getMessage()}  # some stand twice
    warning = record.getMessage()
    assert "normalized_loss has stayed at 1.003" in warning
    assert "the mean gives 1.000" in warning


def test_what_the_figures_rest_on_stands_beside(tmp_path: Path) -> None:
    recorder_in(tmp_path, peak_tflops=2.0)
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["training_gmacs_per_clip"] == {"encoder": 3.0, "decoder": 1.0}
    assert cost["tflop_per_step"] == pytest.approx(4 * 8e9 / 1e12)
    assert cost["peak"] == {"tflops": 2.0, "source": "metrics.peak_tflops"}
