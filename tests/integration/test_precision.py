"""Runs in half precision and with activation checkpointing, from the configuration."""

from pathlib import Path

import pytest

from pretrain.train import train
from tests.stages import losses, pretrain_config
from tests.tiny import world_of_one
from videomae.core.errors import UserError


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_float32(pretrained: Path, shards: Path, tmp_path: Path, precision: str) -> None:
    run = tmp_path / "run"
    train(pretrain_config(run, shards, f"engine.precision={precision}"), world_of_one())
    assert losses(run) == pytest.approx(losses(pretrained), rel=1e-2)
    assert losses(run) != losses(pretrained)


def test_checkpointed_activations_are_the_same(pretrained: Path, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(pretrain_config(run, shards, "engine.activation_checkpointing=true"), world_of_one())
    assert losses(run) == losses(pretrained)


@pytest.mark.usefixtures("joining")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, as DeepSpeed imports it
def test_a_device_without_float16_is_told_what_to_type(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: False)
    config = pretrain_config(tmp_path / "run", shards, "engine={kind: deepspeed, zero_stage: 1, precision: fp16}")
    with pytest.raises(UserError, match=r"type engine.precision=bf16 or engine.zero_stage=0"):
        train(config, world_of_one())
