"""What a pretraining run survives."""

import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pretrain.train
from tests.tiny import world_of_one


def test_pictures_that_a_disk_refuses_are_skipped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, folder: str, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(Path(folder)))

    monkeypatch.setattr(pretrain.train, "draw", refuse)
    monkeypatch.setattr(logging.getLogger("videomae"), "propagate", True)
    config: Any = SimpleNamespace(visualize_every="2 steps", batch=1)
    engine: Any = SimpleNamespace(world=world_of_one(), full_state=dict)
    training: Any = SimpleNamespace(exclude_time=lambda name: nullcontext())
    timetable: Any = SimpleNamespace(interval=lambda every, batch: 2)
    between = pretrain.train.visualize_before_step(config, engine, training, timetable)
    between(2)
    assert "step 2: the pictures are left out" in caplog.text
