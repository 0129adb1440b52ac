"""Configs of tiny runs, in fp32 with the reference engine unless said otherwise."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from videomae.core.config import load
from videomae.engine.local import LocalEngine
from videomae.run.metrics import read_metrics

ROOT = Path(__file__).parent.parent
TINY = "{frames: 8, size: 32, tubelet: 2, patch: 8, dim: 48, depth: 2, heads: 3}"
TINY_RUN = (
    f"encoder={TINY}",
    "decoder={dim: 24, depth: 1, heads: 3}",
    "mask.ratio=0.75",
    "batch=8",
    "optimizer.lr=4e-3",
    "data.repeated_aug=1",
    "schedule={duration: 6 steps, warmup: 2 steps}",
    "engine.kind=local",
    "loader.workers=0",
    "metrics={every: 1, wandb: disabled}",
    "visualizations=1",
)
PRETRAINING = (
    "checkpoint={every: 2 steps, keep: 9}",
    "visualize_every=2 steps",
    "optimizer.ema=0.9",
)  # of `pretrained`
FINETUNING = (  # of the fixture `finetuned`
    "checkpoint={every: 2 steps, keep: 9}",
    "evaluation={every: 1 epoch, clips: 2, crops: 3}",
    "optimizer.ema=0.8",
)
PAD = ("batch=10", "data.partial=pad", "schedule={duration: 2 epochs, warmup: 1 epochs}")
UNMIXED = ("mixup={mixup: 0, cutmix: 0, smoothing: 0.1}", "model.drop_path=0")


def pretrain_arguments(run: Path, shards: Path, *overrides: str) -> list[str]:
    """Config file and overrides of a tiny pretraining run."""
    data = f"data.shards={shards / 'train'}"
    return [str(ROOT / "configs/demo/own_videos/pretrain.yaml"), f"run={run}", data, *TINY_RUN, *overrides]


def pretrain_config(run: Path, shards: Path, *overrides: str) -> PretrainConfig:
    file, *settings = pretrain_arguments(run, shards, *overrides)
    return load(PretrainConfig, Path(file), settings)


def finetune_settings(run: Path, shards: Path) -> dict[str, Any]:
    """A tiny fine-tuning run from scratch."""
    return {
        "run": str(run),
        "batch": 8,
        "data": {"shards": str(shards)},
        "model": {
            "name": "videomae",
            "encoder": {"frames": 8, "size": 32, "patch": 8, "dim": 48, "depth": 2, "heads": 3},
            "drop_path": 0.1,
        },
        "optimizer": {"lr": 3e-2, "betas": [0.9, 0.999]},
        "schedule": {"duration": "6 steps", "warmup": "1 steps"},
        "mixup": {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1},
        "evaluation": {"every": "1 epoch", "clips": 2},
        "engine": {"kind": "local"},
        "loader": {"workers": 0},
        "metrics": {"every": 1, "wandb": "disabled"},
    }


def finetune_config(run: Path, shards: Path, *overrides: str) -> FinetuneConfig:
    import yaml

    file = run.parent / f"{run.name}.yaml"
    file.write_text(yaml.safe_dump(finetune_settings(run, shards)))
    return load(FinetuneConfig, file, list(overrides))


def losses(run: Path) -> list[float]:
    """The training losses that a run logged, step by step."""
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], object]) -> list[int]:
    """Call `action` before the step `number` that this process makes, counted from 1; returns the steps made."""
    original, steps = LocalEngine.train_step, []

    def train_step(self, *arguments, **keywords):
        steps.append(len(steps) + 1)
        if steps[-1] == number:
            action()
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(LocalEngine, "train_step", train_step)
    return steps


def crash() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
