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
from tests.processes import run_command, run_processes
from tests.stages import finetune_config, losses, pretrain_arguments, pretrain_config
from tests.tiny import world_of_one
from videomae.data.shards.reader import Sample
from videomae.run.metrics import read_metrics

PAD = ("batch=10", "data.partial=pad", "schedule={duration: 2 epochs, warmup: 1 epochs}")
UNMIXED = ("mixup={mixup: 0, cutmix: 0, smoothing: 0.1}", "model.drop_path=0")
ENGINE = "engine={kind: deepspeed, zero_stage: 1, micro_batch: 1}"  # one of two gets padding alone, clip by clip


@pytest.fixture(scope="module")
def padded(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs in one process with the reference engine, in one micro-batch a step."""
    run = tmp_path_factory.mktemp("padded") / "run"
    train(pretrain_config(run, shards, *PAD), world_of_one())
    return run


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
    padded: Path, shards: Path, tmp_path: Path
) -> None:
    run_processes(2, "pretrain", *pretrain_arguments(tmp_path / "run", shards, *PAD, ENGINE, "loader.workers=1"))
    assert len(losses(padded)) == 6
    assert read_epochs(padded)[2::3] == [1.0, 2.0]
    ours, theirs = (
        [
            (line["loss"], line["grad_norm"], line["normalized_loss"], line["pixel_loss"])
            for line in read_metrics(run / "metrics.jsonl")
            if line["kind"] == "train"
        ]
        for run in (tmp_path / "run", padded)
    )
    assert ours == [pytest.approx(line, rel=1e-4) for line in theirs]


def test_fine_tuning_too(shards: Path, tmp_path: Path) -> None:
    finetune.train.train(finetune_config(tmp_path / "alone", shards, *PAD, *UNMIXED), world_of_one())
    finetune_config(tmp_path / "run", shards)  # writes the file that the command reads
    run_processes(2, "finetune", tmp_path / "run.yaml", *PAD, *UNMIXED, ENGINE)
    assert len(losses(tmp_path / "run")) == 6
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_another_word_is_a_mistake_that_names_the_choices(shards: Path, tmp_path: Path, stage: str) -> None:
    arguments = pretrain_arguments(tmp_path / "run", shards)
    if stage == "finetune":
        finetune_config(tmp_path / "run", shards)
        arguments = [str(tmp_path / "run.yaml")]
    said = run_command(stage, *arguments, "data.partial=fill", expect=2)
    assert "data.partial: got 'fill'; Input should be 'drop' or 'pad'" in said
