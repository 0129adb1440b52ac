"""Runs launched on this machine: inspected, refused a second start, stopped and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.cli import main as launch
from tests.processes import ROOT
from tests.stages import losses, pretrain_arguments
from videomae.run import status

ENDLESS = "schedule.duration=1000000 steps"
DEADLINE = 600  # seconds; only a hang may reach it, even on a busy machine


class Launched:
    """`videomae launch` in the background, with its output in a file."""

    def __init__(self, log: Path, *words: str) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launch", "launch", *words],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=output,
            )

    def reach(self, run: Path, step: int) -> None:
        """Wait until the run has made `step` steps."""
        while True:
            found = status.read_status(run / status.FILE)
            if found is not None and found.state == "running" and found.step >= step:
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def end(self) -> int:
        return self.process.wait(DEADLINE)


@pytest.mark.timeout(2 * DEADLINE)
def test_a_run_under_torchrun_is_watched_and_stopped(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a run"
    words = [*pretrain_arguments(run, shards, ENDLESS), "--on", "torchrun", "--processes", "1"]
    launched = Launched(tmp_path / "log", *words)
    launched.reach(run, 3)

    assert launch(["status", str(run), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["state"], row["kind"], row["total"]) == ("running", "torchrun", 1000000)
    assert launch(["launch", *words]) == 2
    refused = capsys.readouterr().err
    assert "is running at step" in refused
    assert f"videomae stop '{run}'" in refused

    assert launch(["stop", str(run), "--wait", str(DEADLINE)]) == 0
    assert "stopped and saved at step" in capsys.readouterr().out, launched.log.read_text()
    assert launched.end() == 75, launched.log.read_text()
    assert launch(["logs", str(run)]) == 0
    assert f"stopping: {run}/STOP exists" in capsys.readouterr().out

    copied = json.loads((run / "launch/code/snapshot.json").read_text())
    assert copied["files"] > 100
    environment = json.loads((run / "environment.json").read_text())
    assert environment["git"]["commit"] == copied["commit"]
    assert environment["command"][1:] == [str(run / "launch/config.yaml")]


@pytest.mark.timeout(2 * DEADLINE)
def test_deepspeed_is_stopped_by_a_signal_to_the_launcher(shards: Path, tmp_path: Path) -> None:
    run, cluster = tmp_path / "run", tmp_path / "cluster.yaml"
    cluster.write_text("environment: {OMP_NUM_THREADS: '1'}\n")
    words = [*pretrain_arguments(run, shards, ENDLESS), "--on", "deepspeed", "--cluster", str(cluster)]
    launched = Launched(tmp_path / "log", *words)
    launched.reach(run, 3)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.end() == 75, launched.log.read_text()
    stopped = status.read_status(run / status.FILE)
    assert stopped is not None
    assert (stopped.state, stopped.exit_code) == ("stopped", 75)
    assert not (run / "STOP").exists()
    environment = json.loads((run / "environment.json").read_text())
    assert str(run / "launch/config.yaml") in environment["command"]


def test_a_prepared_run_is_started_with_the_recorded_config(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The original config is deleted before the prepared command runs, in another folder."""
    run, config = tmp_path / "a run", tmp_path / "config.yaml"
    file, *overrides = pretrain_arguments(run, shards, "schedule={duration: 2 steps, warmup: 0 steps}")
    config.write_text(Path(file).read_text())
    words = ["launch", str(config), *overrides, "--on", "local", "--prepare"]
    assert launch(words) == 0
    capsys.readouterr()
    assert launch(words) == 0
    command = capsys.readouterr().out
    assert "-m pretrain" in command
    assert (run / "launch.1").is_dir()
    assert not (run / "metrics.jsonl").exists()
    config.unlink()
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert len(losses(run)) == 2
    assert (run / "launch/config.yaml").read_text() == (run / "config.yaml").read_text()
    assert launch(["stop", str(run)]) == 0
    assert "is finished" in capsys.readouterr().out
