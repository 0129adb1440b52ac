"""optimizer.ema: the EMA of the weights is exported, and changes nothing else."""

from pathlib import Path

import pytest
import torch

from pretrain.train import train
from tests.engine_cases import Reference
from tests.engine_runs import make_engine, saved
from tests.stages import losses, pretrain_config
from tests.tiny import world_of_one
from videomae.engine.state.reader import read_full
from videomae.models.weights.export import load_encoder


def test_pretraining_exports_the_ema(pretrained: Path, of_two: Path) -> None:
    for run, decay in ((pretrained, 0.9), (of_two / "pretrain", 0.5)):
        exported, last = load_encoder(run / "export"), max((run / "checkpoints").glob("step-*"))
        average, weights = (read_full(last, key) for key in ("ema", "master"))
        assert all(torch.equal(value, average[f"encoder.{name}"]) for name, value in exported.state.items())
        assert not any(torch.equal(value, weights[f"encoder.{name}"]) for name, value in exported.state.items())
        assert exported.metadata["ema"] == decay


def test_ema_does_not_change_the_losses(pretrained: Path, shards: Path, tmp_path: Path) -> None:
    train(pretrain_config(tmp_path / "run", shards), world_of_one())
    assert losses(tmp_path / "run") == losses(pretrained)


def test_a_missing_ema_cannot_be_resumed(tmp_path: Path) -> None:
    plain, averaged = (
        make_engine(world_of_one(), Reference(clip=False, ema=ema, decay=False), kind="local") for ema in (False, True)
    )
    with pytest.raises(ValueError, match=r"holds no EMA of the weights; type optimizer\.ema=null"):
        averaged.load(saved(plain, tmp_path))
    with pytest.raises(ValueError, match=r"type optimizer\.ema=0\.9999"):
        plain.full_state(ema=True)
    plain.load(saved(averaged, tmp_path))  # an EMA that is not needed is ignored
