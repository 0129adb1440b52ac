"""A stop whose save takes too long ends with an error, before the launcher's SIGKILL would end it without a word."""

import time
from pathlib import Path

from tests.processes import run_command
from tests.stages import pretrain_arguments


def test_a_stop_whose_save_takes_too_long_ends_with_an_error(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("schedule.duration=5000 steps", "checkpoint={every: 5000 steps, deadline: 1}")
    began = time.monotonic()
    said = run_command("tests.faults.slow_disk", run, *pretrain_arguments(run, shards, *settings), expect=1)
    assert "the save" in said
    assert "has not ended within 1 s" in said
    assert time.monotonic() - began < 55
    assert not list(run.glob("checkpoints/step-*"))
