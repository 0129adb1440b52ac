"""The logs of a run that writes, restarts and ends."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launch import logs
from launch.cli import main as launch
from launch.record import LaunchDir
from launch.run_state import RunState

ALIVE = RunState("run", "running", 1, 9, "torchrun", None, "here", None, "run is running")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/rank-0.log").write_text("one\ntwo\nthree\n")
    (tmp_path / "logs/rank-3.log").write_text("third\n")
    (tmp_path / "logs/rank-0.out").write_text("crash\n")
    return tmp_path


def test_the_last_lines_of_a_rank(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in ((["--lines", "2"], "two\nthree\n"), (["--rank", "3"], "third\n"), (["--raw"], "crash\n")):
        assert launch(["logs", str(run), *words]) == 0
        assert capsys.readouterr().out == said
    (run / "logs/rank-0.log").unlink()
    assert launch(["logs", str(run)]) == 0
    assert capsys.readouterr().out == "crash\n"
    assert launch(["logs", str(run), "--rank", "5"]) == 2
    assert "no log of rank 5; " in capsys.readouterr().err
    assert launch(["logs", str(run / "none")]) == 2


def test_the_raw_output_of_a_task_of_an_array_lies_with_the_array(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("logs", "seed-0/logs", "seed-1/logs", "seed-1/launch"):
        (tmp_path / name).mkdir(parents=True)
    LaunchDir(tmp_path, tmp_path / "seed-1").note("slurm", "pretrain", job="17_1")
    for task, said in ((0, "zero\n"), (1, "no such module\n")):
        (tmp_path / f"logs/slurm-17_{task}.log").write_text(said)
    for words in (["--raw"], []):  # no process came to speak
        assert launch(["logs", str(tmp_path / "seed-1"), *words]) == 0
        assert capsys.readouterr().out == "no such module\n"
    (tmp_path / "seed-1/logs/rank-0.log").write_text("one\n")
    assert launch(["logs", str(tmp_path / "seed-1")]) == 0
    assert capsys.readouterr().out == "one\n"


def test_following_ends_with_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = run / "logs/rank-0.log"

    def life() -> Iterator[RunState]:
        yield ALIVE
        with log.open("a") as file:
            file.write("four\n")
        yield ALIVE
        log.write_text("anew\n")  # shorter than before: it was written from its beginning
        yield ALIVE
        with log.open("a") as file:
            file.write("end\n")
        yield replace(ALIVE, state="stopped")

    states = life()
    monkeypatch.setattr(logs, "_POLL", 0.001)
    monkeypatch.setattr(logs, "_INSPECT", 0.0)
    monkeypatch.setattr(logs, "inspect_run", lambda run: next(states))
    said = "".join(logs.follow_log(run, 0, 1, raw=False))
    assert said == "three\nfour\nanew\nend\n"
