"""The view of a run and its JSON, on runs in every state and terminals of every width."""

import io
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launch.cli import main
from videomae.core.processes import ProcessId
from videomae.core.progress import duration
from videomae.run.liveness import LockRecord
from videomae.run.lock import take
from videomae.run.metrics.log import encode
from videomae.run.metrics.view import view
from videomae.run.report import RunReader
from videomae.run.status import FILE, StatusFile


def train_line(step: int, **values: Any) -> dict[str, Any]:
    figures = {"loss": 1 / step, "loss_max": 1.1 / step, "normalized_loss": 1 / step, "pixel_loss": 0.02 / step}
    times = {"seconds": 5.0, "step_seconds": 0.5, "samples_per_second": 64.0, "data_seconds": 1.0, "data_percent": 20.0}
    more = {"grad_norm": 0.3, "lr": 1e-3, "mfu": 0.31, "memory_gb": 1.5, "skipped": 0, "quarantined": 0}
    return {"kind": "train", "step": step, "epoch": step / 40, **figures, **times, **more, **values}


def add(run: Path, *lines: dict[str, Any]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(map(encode, lines))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A running run of 400 steps, 100 of them done."""
    folder = tmp_path / "a run [bold]"
    (folder / "checkpoints" / "step-00000050").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000100").mkdir()
    (folder / "quarantine.jsonl").write_text("{}\n{}\n")
    add(folder, *(train_line(step) for step in range(10, 101, 10)))
    add(folder, {"kind": "checkpoint", "step": 100, "seconds": 2.5, "blocked_seconds": 0.25, "bytes": 10})
    add(folder, {"kind": "evaluation", "step": 100, "epoch": 2.5, "accuracy": 0.85, "loss": 0.4, "seconds": 12.0})
    StatusFile(folder / FILE, 8, 0, {"SLURM_JOB_ID": "17"}).running(step=100, total=400)
    return folder


def shown(run: Path, width: int = 100) -> str:
    written = io.StringIO()
    Console(width=width, file=written).print(view(RunReader(run).read(), width=width))
    return written.getvalue()


def test_the_view_says_where_the_run_stands(run: Path) -> None:
    add(run, train_line(110, skipped=2), {"kind": "rollback", "step": 90})
    add(run, {"kind": "straggler", "step": 110, "rank": 3, "host": "n7", "seconds": 0.9, "median_seconds": 0.5})
    text = shown(run)
    for part in (
        "a run [bold] · running",
        "step 110 of 400 (28%), epoch 2.75, 2 min 25 s left",
        "8 processes on",
        "slurm job 17",
        "accuracy 0.85, loss 0.4, seconds 12",
        "saved in 2.5 s of which 0.25 s blocked training",
        "2 steps skipped, 2 samples quarantined, 1 rollback",
        "rank 3 on n7: 0.9 s per step, the median rank 0.5 s",
        "MFU %",
        "waiting for data %",
        "gradient norm",
    ):
        assert part in text, part
    assert re.search(r"step 100, \d+ s ago, saved in", text)
    assert "normalized loss" not in text  # the same as the loss
    assert "pixel loss" in text


@pytest.mark.parametrize("width", [40, 56, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(run: Path, width: int) -> None:
    assert {len(line) for line in shown(run, width).splitlines()} == {width}


def test_it_follows_the_file_and_what_is_cut_back(run: Path) -> None:
    reader = RunReader(run)
    assert reader.read().step == 100
    add(run, train_line(110))
    assert reader.read().step == 110
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl.new").write_text("".join(lines[:4]))
    (run / "metrics.jsonl.new").replace(run / "metrics.jsonl")
    again = reader.read()
    assert (again.step, len(again.train)) == (40, 4)


def test_stopped_failed_and_finished_runs_say_so_and_have_no_time_left(run: Path) -> None:
    status = StatusFile(run / FILE, 8, 0, {})
    status.ended("stopped", "signal SIGUSR1", exit_code=75)
    assert "stopped" in shown(run)
    assert "signal SIGUSR1" in shown(run)
    status.ended("failed", "the loss has diverged", exit_code=76)
    assert "the loss has diverged" in shown(run)
    (run / "summary.json").write_text("{}")
    text = shown(run)
    assert "finished" in text
    assert " left" not in text


def test_a_run_without_a_heartbeat_is_called_stale(run: Path) -> None:
    other_machine = ProcessId("another boot", 4711, 1)
    assert take(run, 1, replace(LockRecord.of_this_process({}), process=other_machine))
    assert not RunReader(run).read().stale
    os.utime(run / "lock" / "1.json", (0, 0))
    assert RunReader(run).read().stale
    assert "no heartbeat for" in shown(run)


def test_a_run_without_a_status_or_a_step_is_shown_too(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("batch: 8\nschedule: {duration: 10 epochs}\n")
    assert "no step is logged yet" in shown(tmp_path)
    add(tmp_path, train_line(20, loss=math.nan, mfu=None))
    report = RunReader(tmp_path).read()
    assert (report.state, report.total, report.step) == ("unknown", None, 20)
    assert "nan" in shown(tmp_path)


def test_json_is_alone_valid_and_complete(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    add(run, train_line(110, loss=math.inf))
    assert main(["watch", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert (found["state"], found["step"], found["total"], found["quarantined"]) == ("running", 110, 400, 2)
    assert found["latest"]["train"]["loss"] == "Infinity"
    assert found["latest"]["evaluation"]["accuracy"] == 0.85
    assert found["checkpoint"]["name"] == "step-00000100"


def test_once_prints_and_leaves(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(run), "--once", "--width", "90"]) == 0
    assert "step 100 of 400" in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_a_clear_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path)]) == 2
    assert "no run at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "5 s"), (65, "1 min 05 s"), (3700, "1 h 01 min"), (260000, "3.0 days"), (math.nan, "an unknown time")],
)
def test_durations_are_read_at_a_glance(seconds: float, words: str) -> None:
    assert duration(seconds) == words
