"""optimizer.ema: the EMA of the weights is exported and evaluated."""

import json
from pathlib import Path

import pytest
import torch

from finetune.evaluation import FILE
from finetune.train import train as finetune
from pretrain.train import train as pretrain
from tests.processes import run_command
from tests.stages import finetune_config, losses, pretrain_arguments, pretrain_config
from tests.tiny import world_of_one
from videomae.engine.state.reader import read_full
from videomae.models.weights.export import load_encoder


def last_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("engine", ["engine={kind: local}", "engine={kind: deepspeed, zero_stage: 2, precision: bf16}"])
def test_pretraining_exports_the_ema(shards: Path, tmp_path: Path, engine: str) -> None:
    run = tmp_path / "run"
    run_command("pretrain", *pretrain_arguments(run, shards, "optimizer.ema=0.5", engine))
    exported = load_encoder(run / "export")
    average, last = (read_full(last_checkpoint(run), key) for key in ("ema", "master"))
    assert all(torch.equal(value, average[f"encoder.{name}"]) for name, value in exported.state.items())
    assert not any(torch.equal(value, last[f"encoder.{name}"]) for name, value in exported.state.items())
    assert exported.metadata["ema"] == 0.5


def test_ema_does_not_change_the_losses(shards: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "plain", tmp_path / "averaged"]
    for run, ema in zip(runs, ("null", "0.9"), strict=True):
        pretrain(pretrain_config(run, shards, f"optimizer.ema={ema}"), world_of_one())
    assert losses(runs[0]) == losses(runs[1])


def test_fine_tuning_evaluates_what_it_exports(shards: Path, tmp_path: Path) -> None:
    run = finetune(finetune_config(tmp_path / "run", shards, "optimizer.ema=0.8"), world_of_one()).path
    assert json.loads((run / "export" / "classifier.json").read_text())["ema"] == 0.8
    again = json.loads(run_command("launch", "evaluate", run, "--json"))
    recorded = json.loads((run / FILE).read_text())
    assert again["loss"] == pytest.approx(recorded["loss"], rel=1e-5)


def test_a_missing_ema_cannot_be_resumed(shards: Path, tmp_path: Path) -> None:
    from tests.engine_cases import Reference
    from tests.engine_runs import make_engine, saved

    plain, averaged = (
        make_engine(world_of_one(), Reference(clip=False, ema=ema, decay=False), kind="local") for ema in (False, True)
    )
    with pytest.raises(ValueError, match=r"holds no EMA of the weights; type optimizer\.ema=null"):
        averaged.load(saved(plain, tmp_path))
    with pytest.raises(ValueError, match=r"type optimizer\.ema=0\.9999"):
        plain.full_state(ema=True)
    plain.load(saved(averaged, tmp_path))  # an EMA that is not needed is ignored
