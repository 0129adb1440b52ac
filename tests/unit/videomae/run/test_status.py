"""status.json: what it says, that it can be read at any time, and that nonsense is no status."""

import json
import os
from pathlib import Path

import pytest

from videomae.run.status import FILE, LauncherStatus, State, StatusFile, read_status


def test_it_is_there_from_the_start_and_says_how_it_ended(tmp_path: Path) -> None:
    path = tmp_path / FILE
    file = StatusFile(path, 2, 3, {"SLURM_JOB_ID": "17"})
    begun = read_status(path)
    assert begun is not None
    assert (begun.state, begun.processes, begun.pid, begun.starts_without_progress) == ("running", 2, os.getpid(), 3)
    assert begun.launcher == LauncherStatus("slurm", "17")
    file.running(step=5, total=9)
    file.progressed()
    file.ended("stopped", "signal SIGTERM", exit_code=75)
    ended = read_status(path)
    assert ended is not None
    assert (ended.state, ended.step, ended.total, ended.exit_code) == ("stopped", 5, 9, 75)
    assert ended.reason == "signal SIGTERM"
    assert ended.starts_without_progress == 0
    assert ended.started == begun.started


@pytest.mark.parametrize(
    ("state", "exit_code", "in_vain"), [("failed", 1, 3), ("stopped", 75, 2), ("failed", 2, 2), ("finished", 0, 0)]
)
def test_which_ends_make_a_start_one_in_vain(tmp_path: Path, state: State, exit_code: int, in_vain: int) -> None:
    file = StatusFile(tmp_path / FILE, 1, 3, {})
    file.ended(state, None, exit_code=exit_code)
    assert file.status.starts_without_progress == in_vain


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({}, "local"),
        ({"TORCHELASTIC_RUN_ID": "a"}, "torchrun"),
        ({"CROSS_RANK": "0"}, "deepspeed"),
        ({"SLURM_JOB_ID": "1", "TORCHELASTIC_RUN_ID": "a"}, "slurm"),
    ],
)
def test_the_launcher_is_read_off_its_variables(variables: dict[str, str], kind: str) -> None:
    assert LauncherStatus.of(variables).kind == kind


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "running"}', '{"launcher": 3}'])
def test_what_is_no_status_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_status(tmp_path / FILE) is None
    assert read_status(tmp_path / "nowhere") is None


def test_an_unknown_state_is_none(tmp_path: Path) -> None:
    StatusFile(tmp_path / FILE, 1, 0, {})
    values = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**values, "state": "asleep"}))
    assert read_status(tmp_path / FILE) is None
