"""However a run is started, whatever it is doing, and whichever signal comes: it saves, says so, and leaves nobody."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune.train import train
from launch.cluster import Launcher
from tests.faults.started import PATIENCE, Started, finetune, start
from tests.processes import ROOT
from tests.stages import finetune_config, losses, pretrain_arguments
from tests.tiny import world_of_one
from videomae.run.checkpoint import find_fault
from videomae.run.metrics import read_metrics
from videomae.run.status import FILE, Status
from videomae.run.status import read_status as read_status

pytestmark = pytest.mark.slow

# How long each phase is made to take, in seconds. Each signal meets each launcher and each phase: here, or, of SIGTERM,
# in the tests below, in test_two_starts.py (torchrun) and in test_launch.py (deepspeed).
PHASES = {"step": 0.2, "evaluate": 2.0, "save": 1.5}
SETTINGS = ("schedule.duration=1000 steps", "evaluation={every: 12 steps, batch: 2}", "checkpoint.every=5 steps")
LAUNCHERS: dict[Launcher, dict[str, signal.Signals]] = {
    "local": {"step": signal.SIGTERM, "evaluate": signal.SIGUSR1, "save": signal.SIGINT},
    "torchrun": {"step": signal.SIGUSR1, "evaluate": signal.SIGINT},
    "deepspeed": {"step": signal.SIGINT, "save": signal.SIGUSR1},
}
# torchrun makes 1 of every code but 0; deepspeed's command dies of the signal and knows nothing of the run.
CODES: dict[Launcher, tuple[int, ...]] = {
    "local": (75,),
    "torchrun": (1,),
    "deepspeed": (-signal.SIGTERM, -signal.SIGUSR1, -signal.SIGINT, 1),
}


@contextmanager
def running(run: Path, words: tuple[str, ...], *, on: Launcher, **faults: Any) -> Iterator[Started]:
    started = start(run, words, on=on, **faults)
    try:
        yield started
    finally:
        started.kill()


def engine(on: Launcher) -> str:
    return f"engine.kind={'local' if on == 'local' else 'deepspeed'}"


def status_of(started: Started) -> Status:
    status = read_status(started.run / FILE)
    assert status is not None, started.said
    return status


def assert_stopped_and_saved(started: Started, *, at_least: int) -> None:
    status = status_of(started)
    assert (status.state, status.exit_code) == ("stopped", 75), started.said
    folders = sorted((started.run / "checkpoints").glob("step-*"))
    assert [find_fault(folder) for folder in folders] == [None] * len(folders)
    saved = json.loads((folders[-1] / "progress.json").read_text())["step"]
    assert f"saved at step {saved};" in (status.reason or "")
    assert saved >= at_least
    assert status.starts_without_progress == 0


def evaluations(run: Path) -> list[tuple[int, float]]:
    return [
        (line["step"], line["loss"]) for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "evaluation"
    ]


@pytest.mark.parametrize("on", LAUNCHERS)
def test_a_signal_to_the_launcher_saves_and_leaves_nobody(shards: Path, tmp_path: Path, on: Launcher) -> None:
    run = tmp_path / "run"
    words = finetune(run, shards, engine(on), *SETTINGS)
    for phase, number in LAUNCHERS[on].items():
        with running(run, words, on=on, seconds={phase: PHASES[phase]}) as started:
            started.wait_for(phase)
            if phase == "step":
                started.wait_until(lambda: len(losses(run)) > 1)
            before = evaluations(run)
            code = started.signal(number)
            assert code in CODES[on], started.said
            assert_stopped_and_saved(started, at_least=1)
            assert started.log.read_text().count("Fine-tuning run stopped and saved") == 1  # one rank speaks for all
            assert not re.search(r'File ".*/(videomae|finetune|faults)/', started.log.read_text()), started.said
            if phase == "evaluate":  # it was left, although it takes 4 batches of 2 s on each process
                assert evaluations(run) == before


def test_a_stopped_evaluation_is_done_when_the_run_goes_on(shards: Path, tmp_path: Path) -> None:
    """And what comes of it is what an undisturbed run gives, each evaluation once."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    settings = (engine("local"), "evaluation.every=2 steps", "evaluation.batch=2", "checkpoint.every=3 steps")
    words = finetune(run, shards, *settings)
    for _ in range(2):  # the second meets the evaluation that the first has left
        with running(run, words, on="local", seconds={"evaluate": 2.0}) as started:
            started.wait_for("evaluate")
            assert started.signal(signal.SIGTERM) == 75, started.said
    for path in (run, whole):
        train(finetune_config(path, shards, *settings), world_of_one())
    assert [step for step, _ in evaluations(run)] == [2, 4, 6]
    assert evaluations(run) == evaluations(whole)
    assert losses(run) == losses(whole)


def test_a_signal_during_the_imports_is_remembered(shards: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pretrain", *pretrain_arguments(tmp_path / "run", shards)]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    caught = 0
    while not caught >> (signal.SIGTERM - 1) & 1:  # until it listens
        assert process.poll() is None
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    process.send_signal(signal.SIGTERM)
    assert not (tmp_path / "run").exists()
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 75, said
    assert "stopped and saved at step 0" in said


@pytest.mark.parametrize("phase", ["build", "batch"])
def test_a_ctrl_c_before_the_first_step_is_obeyed(shards: Path, tmp_path: Path, phase: str) -> None:
    """A terminal sends it to the workers too, and a launcher in between once more; the first batch never comes."""
    run = tmp_path / "run"
    words = finetune(run, shards, engine("local"), "loader={workers: 1, start_method: spawn}")
    with running(run, words, on="local", seconds={"build": 2.0, "batch": 1e6}) as started:
        started.wait_for(phase)
        for _ in range(2):
            os.killpg(started.process.pid, signal.SIGINT)
            time.sleep(0.3)
        assert started.ended() == 75, started.said
        assert status_of(started).state == "stopped"
        assert "saved at step 0" in (status_of(started).reason or "")
        assert "KeyboardInterrupt" not in started.log.read_text(), started.said


def test_a_save_that_takes_too_long_for_a_stop_ends_with_the_stacks(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("checkpoint={every: 4 steps, deadline: 2}", "evaluation.every=100 steps", "schedule.duration=99 steps")
    words = finetune(run, shards, engine("local"), *settings)
    with running(run, words, on="local", seconds={"step": 0.5, "save2": 1e6}) as started:
        whole = run / "checkpoints" / "step-00000004"
        started.wait_until(lambda: len(losses(run)) > 4)
        assert started.signal(signal.SIGTERM) == 1, started.said
    assert find_fault(whole) is None
    assert not list((run / "checkpoints").glob("step-0000000[5-9]"))
    assert "in enter" in (run / "logs" / "rank-0.stacks.txt").read_text()
    assert status_of(started).state == "failed"
    assert "has not ended within 2 s" in (status_of(started).reason or "")


def test_workers_whose_launcher_is_killed_save_and_leave(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = finetune(run, shards, engine("torchrun"), "schedule.duration=1000 steps", "loader.workers=1")
    with running(run, words, on="torchrun", seconds={"step": 0.2}) as started:
        started.wait_until(lambda: len(losses(run)) > 1)
        assert started.signal(signal.SIGKILL) == -signal.SIGKILL
        assert_stopped_and_saved(started, at_least=2)
        assert "the launcher torch.distributed.run" in (run / "logs" / "rank-0.log").read_text()
