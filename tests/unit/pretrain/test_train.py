"""What a pretraining run survives."""

import dataclasses
import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

import pretrain.train
from pretrain.config import PretrainConfig
from tests.tiny import TINY_DECODER, TINY_ENCODER, world_of_one
from videomae.core.config import parse, to_dict
from videomae.models.encoder import VideoEncoder
from videomae.models.weights import WeightsError, save_encoder


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


def test_a_run_can_start_from_an_exported_encoder(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    torch.manual_seed(1)
    encoder = VideoEncoder(TINY_ENCODER)
    save_encoder(encoder.state_dict(), TINY_ENCODER, tmp_path, {})
    values = {"run": "r", "batch": 4, "data": {"shards": "s"}, "encoder": to_dict(TINY_ENCODER)}
    values |= {"decoder": to_dict(TINY_DECODER), "weights": str(tmp_path)}
    config = parse(PretrainConfig, values, source="test")
    model = pretrain.train.initial_model(config)
    for name, value in encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value), name
    other = parse(PretrainConfig, {**values, "encoder": {**values["encoder"], "depth": 1}}, source="test")
    with pytest.raises(WeightsError, match="depth is 1 in the config and 2 in"):
        pretrain.train.initial_model(other)
    whole = {name: value + 1 for name, value in model.state_dict().items()}
    safetensors.torch.save_file(whole, tmp_path / "whole" / "all.safetensors")
    model = pretrain.train.initial_model(dataclasses.replace(config, weights=str(tmp_path / "whole/all.safetensors")))
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())
    deeper = dataclasses.replace(config, decoder=dataclasses.replace(TINY_DECODER, depth=2))
    deeper = dataclasses.replace(deeper, weights=str(tmp_path / "whole/all.safetensors"))
    with pytest.raises(WeightsError, match="missing keys"):
        pretrain.train.initial_model(deeper)
