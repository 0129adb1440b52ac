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
    trainer: Any = SimpleNamespace(engine=engine, exclude_time=lambda name: nullcontext())
    schedule: Any = SimpleNamespace(interval=lambda every, batch: 2)
    visualize = pretrain.train.visualize_before_step(config, trainer, schedule)
    visualize(2)
    assert "step 2: no reconstructions" in caplog.text
