"""A stop that cannot save ends with an error, and not as a stop. One that saves for too long: test_signals.py."""

import math
from pathlib import Path

import pytest

from pretrain.train import train
from tests.stages import at_step, pretrain_config, terminate
from tests.tiny import world_of_one
from videomae.core.signals import Stopped, handle_signals
from videomae.engine.state.snapshot import Snapshot
from videomae.run.checkpoint import SaveError
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


def test_a_stop_that_cannot_save_ends_with_an_error(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: Snapshot, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Snapshot, "write", write)
    at_step(monkeypatch, 2, terminate)
    with pytest.raises(SaveError, match="No space left"):
        train(pretrain_config(tmp_path / "run", shards), world_of_one())
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))
