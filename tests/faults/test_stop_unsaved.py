"""A stop that cannot save ends with an error, and not as a stop; also one whose save takes longer than its deadline."""

from pathlib import Path

import pytest

from tests.processes import run_command
from tests.stages import pretrain_arguments


@pytest.mark.parametrize(("disk", "complaint"), [("slow", "has not ended within 1 s"), ("full", "No space left")])
def test_a_stop_that_cannot_save_ends_with_an_error(shards: Path, tmp_path: Path, disk: str, complaint: str) -> None:
    run = tmp_path / "run"
    settings = (
        "schedule.duration=5000 steps",
        f"checkpoint={{every: 5000 steps, deadline: {1 if disk == 'slow' else 60}}}",
    )
    said = run_command("tests.faults.bad_disk", disk, run, *pretrain_arguments(run, shards, *settings), expect=1)
    assert complaint in said
    assert not list(run.glob("checkpoints/step-*"))
