"""A stop that cannot save ends with an error, and not as a stop; also one whose save takes longer than its deadline."""

import math
from pathlib import Path

import pytest

from pretrain.train import train
from tests.processes import run_command
from tests.stages import pretrain_arguments, pretrain_config
from tests.tiny import world_of_one
from videomae.core.signals import Stopped, handle_signals
from videomae.run.metrics import MetricsLog


def test_what_follows_the_save_has_what_is_left_of_its_time(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher kills after 120 s: W&B must not take up what the save has left."""
    given: list[float] = []
    monkeypatch.setattr(MetricsLog, "close", lambda log, *, seconds=math.inf: given.append(seconds))
    with handle_signals() as stop:
        stop.ask("STOP exists")
        assert stop.asked_at is not None
        stop.asked_at -= 100  # so long did the save take
        with pytest.raises(Stopped):
            train(pretrain_config(tmp_path / "run", shards), world_of_one())
    (seconds,) = given
    assert 1 <= seconds <= 10


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
