"""What a pretraining run starts from."""

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch

import pretrain.train
from pretrain.config import PretrainConfig
from tests.tiny import TINY_DECODER, TINY_ENCODER
from videomae.core.config import parse, to_dict
from videomae.models.encoder import VideoEncoder
from videomae.models.weights import WeightsError, save_encoder


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
