"""Metrics: the file is the truth, and whatever W&B does, the run goes on."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import world_of_one
from videomae import metrics
from videomae.config import configclass
from videomae.metrics import MetricsConfig, MetricsLog, read, require_finite
from videomae.run import RunDirectory


@configclass
class Settings:
    run: str = "here"


def open_log(folder: Path, **settings: Any) -> MetricsLog:
    return MetricsLog(RunDirectory(folder), config=Settings(), metrics=MetricsConfig(**settings), world=world_of_one())


def test_lines_are_cut_back_to_the_resumed_step(tmp_path: Path) -> None:
    log = open_log(tmp_path, wandb="disabled")
    for step in range(1, 6):
        log.write("train", step, loss=1 / step)
    log.cut_back(3)
    log.write("train", 4, loss=9.0)
    assert [(line["step"], line["loss"]) for line in read(tmp_path / "metrics.jsonl")][2:] == [(3, 1 / 3), (4, 9.0)]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n{"kind": "tra')
    assert read(tmp_path / "metrics.jsonl") == [{"kind": "train", "step": 1}]


def test_offline_wandb_writes_into_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(metrics, "_logged_in", lambda: False)
    log = open_log(tmp_path)
    log.write("train", 1, loss=0.5)
    log.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))


def test_a_failing_mirror_never_stops_the_run(tmp_path: Path) -> None:
    class Broken:
        def log(self, *arguments: Any, **keywords: Any) -> None:
            raise ConnectionError("nobody there")

        def finish(self) -> None:
            raise ConnectionError("nobody there")

    log = open_log(tmp_path, wandb="disabled")
    log._mirror = Broken()
    log.write("train", 1, loss=0.5)
    log.write("train", 2, loss=0.4)
    log._mirror = Broken()
    log.close()
    assert [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0.5, 0.4]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_stops_the_run_with_advice(value: float) -> None:
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 7.*optimizer\.clip"):
        require_finite(value, what="the loss", step=7)
