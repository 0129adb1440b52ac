"""Runs in half precision and with activation checkpointing, from the configuration."""

from pathlib import Path

import pytest

from pretrain.train import train
from tests.processes import run_command
from tests.stages import losses, pretrain_arguments, pretrain_config
from tests.tiny import world_of_one


@pytest.fixture(scope="module")
def exact(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run in float32."""
    run = tmp_path_factory.mktemp("exact") / "run"
    train(pretrain_config(run, shards), world_of_one())
    return losses(run)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_float32(exact: list[float], shards: Path, tmp_path: Path, precision: str) -> None:
    run = tmp_path / "run"
    train(pretrain_config(run, shards, f"engine.precision={precision}"), world_of_one())
    assert losses(run) == pytest.approx(exact, rel=1e-2)
    assert losses(run) != exact


def test_checkpointed_activations_are_the_same(exact: list[float], shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(pretrain_config(run, shards, "engine.activation_checkpointing=true"), world_of_one())
    assert losses(run) == exact


def test_a_device_without_float16_is_told_what_to_type(shards: Path, tmp_path: Path) -> None:
    engine = "engine={kind: deepspeed, zero_stage: 1, precision: fp16}"
    code = (
        "from deepspeed.accelerator import get_accelerator; get_accelerator().is_fp16_supported = lambda: False; "
        "import sys; from pretrain.config import PretrainConfig; from pretrain.train import train; "
        "from videomae.command import run_stage; from pathlib import Path; "
        "sys.exit(run_stage(PretrainConfig, train, Path(sys.argv[1]), sys.argv[2:]))"
    )
    (tmp_path / "without_float16.py").write_text(code)
    arguments = pretrain_arguments(tmp_path / "run", shards, engine)
    said = run_command("without_float16", *arguments, expect=2, DS_ACCELERATOR="cpu", PYTHONPATH=str(tmp_path))
    assert "type engine.precision=bf16 or engine.zero_stage=0" in said
    assert "Traceback" not in said
