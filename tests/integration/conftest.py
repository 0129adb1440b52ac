"""Runs that several tests look at, made once for all test processes."""

import json
from pathlib import Path

import pytest

from finetune.train import train as finetune
from pretrain.train import train as pretrain
from tests.processes import once, run_processes
from tests.stages import FINETUNING, PAD, PRETRAINING, UNMIXED, finetune_config, pretrain_arguments, pretrain_config
from tests.tiny import world_of_one


@pytest.fixture(scope="session")
def pretrained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run in this process, with the reference engine. Copy it before you write to it."""

    def make(folder: Path) -> None:
        pretrain(pretrain_config(folder / "run", shards, *PRETRAINING), world_of_one())

    return once(tmp_path_factory, "pretrained", make) / "run"


@pytest.fixture(scope="session")
def finetuned(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning run from scratch, alike."""

    def make(folder: Path) -> None:
        finetune(finetune_config(folder / "run", shards, *FINETUNING), world_of_one())

    return once(tmp_path_factory, "finetuned", make) / "run"


@pytest.fixture(scope="session")
def of_two(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs of two DeepSpeed processes, one after the other in one process group."""

    def make(folder: Path) -> None:
        engine = "engine={kind: deepspeed, zero_stage: 1, micro_batch: 2}"
        clip_by_clip = "engine={kind: deepspeed, zero_stage: 1, micro_batch: 1}"  # one of two gets padding alone
        batch_norm = ("model={name: early_fusion, frames: 4, size: 32}", "engine={kind: deepspeed, zero_stage: 1}")
        uneven = "evaluation={clips: 2, batch: 6}"
        finetune_config(folder / "finetune", shards)  # writes the file that is loaded below
        runs = [
            ("pretrain", *pretrain_arguments(folder / "pretrain", shards, engine, "optimizer.ema=0.5")),
            ("pretrain", *pretrain_arguments(folder / "padded", shards, *PAD, clip_by_clip, "loader.workers=1")),
            *(
                ("finetune", str(folder / "finetune.yaml"), f"run={folder / name}", *settings)
                for name, settings in {
                    "padded-finetune": (*PAD, *UNMIXED, clip_by_clip),
                    "batch-norm": (*batch_norm, uneven),
                }.items()
            ),
        ]
        (folder / "runs.json").write_text(json.dumps(runs))
        run_processes(2, "tests.integration.runs", folder / "runs.json")

    return once(tmp_path_factory, "of-two", make)
