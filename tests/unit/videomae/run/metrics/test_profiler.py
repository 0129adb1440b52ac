"""The profiler's window: a trace of exactly its steps, on its ranks, and nothing outside."""

import json
from pathlib import Path

import torch

from tests.tiny import world_of_one
from videomae.run.metrics import ProfileConfig
from videomae.run.metrics.profiler import ProfilerWindow


def work(window: ProfilerWindow, steps: range) -> None:
    for step in steps:
        window.begin(step)
        with torch.profiler.record_function(f"work-{step}"):
            torch.ones(8, 8) @ torch.ones(8, 8)
        window.end(step)


def profiled_steps(folder: Path, name: str) -> list[int]:
    trace = json.loads((folder / f"{name}.json").read_text())
    return sorted({int(e["name"][5:]) for e in trace["traceEvents"] if e.get("name", "").startswith("work-")})


def test_a_window_is_a_trace_and_a_table_of_its_steps(tmp_path: Path) -> None:
    window = ProfilerWindow(ProfileConfig(start=3, steps=2), folder=tmp_path, world=world_of_one())
    work(window, range(8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-0-steps-3-4.json", "rank-0-steps-3-4.txt"]
    assert profiled_steps(tmp_path, "rank-0-steps-3-4") == [3, 4]
    assert "aten::mm" in (tmp_path / "rank-0-steps-3-4.txt").read_text()


def test_a_run_that_resumes_or_stops_within_the_window_writes_what_there_is(tmp_path: Path) -> None:
    window = ProfilerWindow(ProfileConfig(start=3, steps=20), folder=tmp_path, world=world_of_one())
    work(window, range(5, 7))
    window.close()
    assert profiled_steps(tmp_path, "rank-0-steps-5-6") == [5, 6]


def test_other_ranks_and_runs_without_a_window_record_nothing(tmp_path: Path) -> None:
    for config in (None, ProfileConfig(start=0, ranks=(1,)), ProfileConfig(start=9)):
        window = ProfilerWindow(config, folder=tmp_path, world=world_of_one())
        work(window, range(5))
        window.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("a file in the way")
    window = ProfilerWindow(ProfileConfig(start=0, steps=1), folder=tmp_path / "profile", world=world_of_one())
    work(window, range(2))
    assert (tmp_path / "profile").read_text() == "a file in the way"
