"""data.partial=pad: an epoch meets every sample exactly once, and its last step is that of the real ones' mean.

24 train videos in batches of 10: two whole steps and one of four real clips, beside six that weigh nothing.
"""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune.train
from finetune.stream import TrainingClips
from pretrain.batch import PretrainBatch
from pretrain.config import PretrainConfig
from pretrain.objective import Objective
from pretrain.stream import MaskedClips, open_stream
from pretrain.train import initial_model, train
from tests.stages import PAD, UNMIXED, finetune_config, losses, pretrain_config
from tests.tiny import world_of_one
from videomae.data.shards.reader import Sample
from videomae.run.metrics import read_metrics


@pytest.mark.parametrize(("partial", "met"), [("pad", 24), ("drop", 20)])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_an_epoch_of_a_run_meets_each_sample_once_with_weight(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stage: str, partial: str, met: int
) -> None:
    seen: list[tuple[str, float]] = []
    clips = MaskedClips if stage == "pretrain" else TrainingClips
    original = clips.__call__

    def look(self: object, sample: Sample, rngs: tuple[np.random.Generator, ...], alloc: object) -> list[object]:
        seen.append((sample.key, sample.weight))
        return original(self, sample, rngs, alloc)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(clips, "__call__", look)
    settings = (*PAD, f"data.partial={partial}")
    if stage == "pretrain":
        train(pretrain_config(tmp_path / "run", shards, *settings, "visualizations=0"), world_of_one())
    else:
        finetune.train.train(finetune_config(tmp_path / "run", shards, *settings), world_of_one())
    per_epoch = 30 if partial == "pad" else 20
    assert len(seen) == 2 * per_epoch
    assert read_epochs(tmp_path / "run")[-1] == 2.0
    for epoch in (seen[:per_epoch], seen[per_epoch:]):
        assert Counter(Counter(key for key, weight in epoch if weight).values()) == {1: met}
        assert sum(weight for _, weight in epoch) == pytest.approx(per_epoch)


def read_epochs(run: Path) -> list[float]:
    return [line["epoch"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]


def test_the_last_step_of_an_epoch_is_the_one_of_its_real_clips(shards: Path, tmp_path: Path) -> None:
    config = pretrain_config(tmp_path / "run", shards, *PAD, "batch=20", "data.repeated_aug=2")
    (batch,) = next(open_stream(config, world_of_one()).batches(2))
    assert batch.weight_B is not None
    assert batch.weight_B.tolist() == pytest.approx([2.5] * 8 + [0.0] * 12)
    parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    real = PretrainBatch(**{name: part[:8] for name, part in parts.items()} | {"weight_B": None})
    torch.testing.assert_close(after_one_step(config, batch), after_one_step(config, real), rtol=1e-5, atol=1e-7)
    whole = itertools.islice(open_stream(config, world_of_one()).batches(0), 2)
    assert [batch.weight_B for (batch,) in whole] == [None, None]


def after_one_step(config: PretrainConfig, batch: PretrainBatch) -> dict[str, torch.Tensor]:
    """Loss, gradient norm, and how far each weight has moved."""
    before = initial_model(config).state_dict()
    engine = config.build_engine(initial_model(config), world_of_one())
    objective = Objective(config.objective, encoder=config.encoder, device=torch.device("cpu"))
    update = engine.train_step([batch], objective, lr=1e-3)
    moved = {name: value - before[name] for name, value in engine.full_state().items()}
    return {"loss": update.loss, "norm": update.grad_norm, **moved}


def test_one_and_two_processes_and_micro_batches_see_the_same_losses(
    of_two: Path, shards: Path, tmp_path: Path
) -> None:
    """In one process with one micro-batch a step, and in two with their clips one by one."""
    train(pretrain_config(tmp_path / "run", shards, *PAD), world_of_one())
    ours, theirs = (
        [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]
        for run in (of_two / "padded", tmp_path / "run")
    )
    assert [line["epoch"] for line in theirs][2::3] == [1.0, 2.0]
    for key in ("loss", "grad_norm", "normalized_loss", "pixel_loss"):
        assert [line[key] for line in ours] == pytest.approx([line[key] for line in theirs], rel=1e-4)
    assert len(ours) == 6


def test_fine_tuning_too(of_two: Path, shards: Path, tmp_path: Path) -> None:
    finetune.train.train(finetune_config(tmp_path / "alone", shards, *PAD, *UNMIXED), world_of_one())
    assert len(losses(of_two / "padded-finetune")) == 6
    assert losses(of_two / "padded-finetune") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
