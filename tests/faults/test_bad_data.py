"""A rank alone meets data that ends the run: all ranks end alike, what is trained is kept, the exit code is right."""

import json
import shutil
from pathlib import Path

import pytest

from pretrain.train import train
from tests.faults.started import finetune, pretrain
from tests.faults.test_signals import running, status_of
from tests.stages import losses, pretrain_config
from tests.tiny import world_of_one
from videomae.data.order.order import Order, OrderConfig
from videomae.data.shards.manifest import Manifest
from videomae.data.shards.reader import ShardReader, read_manifest


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> Path:
    """The shards, in which a sample of the second rank's half of the second batch of 8 is damaged."""
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    manifest = read_manifest(copy / "train")
    damage(manifest, Order.of(manifest, 8, OrderConfig(seed=0)).slots(1, 4, 8)[0].sample)
    return copy


def damage(manifest: Manifest, sample: int) -> None:
    shard, _ = manifest.locate(sample)
    with (manifest.folder / manifest.shards[shard].name).open("r+b") as file:
        file.seek(ShardReader(manifest).entry(sample).offset)
        file.write(b"####")


def test_all_ranks_end_and_save_when_one_has_used_up_the_quota(damaged: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("seed=0", "checkpoint.every=100 steps")
    words = pretrain(run, damaged, *settings, "engine.kind=deepspeed", "loader={workers: 1, quota: {samples: 0}}")
    with running(run, words, on="torchrun") as started:
        assert started.ended() == 1  # torchrun's, of every code but 0
        said = started.said.partition("elastic")[0]  # torchrun has its own word to say
    status = status_of(started)
    assert (status.state, status.exit_code) == ("failed", 2), said
    assert "1 bad samples, 0 allowed by quota.samples" in (status.reason or "")
    assert "no data on rank 1" in (run / "logs" / "rank-1.log").read_text()
    assert "Traceback" not in said
    assert len((run / "quarantine.jsonl").read_text().splitlines()) == 1
    assert json.loads(next((run / "checkpoints").glob("step-*/progress.json")).read_text())["step"] == 1
    assert len(losses(run)) == 1
    train(pretrain_config(run, damaged, *settings, "loader.quota={samples: 9}"), world_of_one())
    assert len(losses(run)) == 6


def test_all_ranks_end_when_one_meets_a_bad_sample_in_an_evaluation(shards: Path, tmp_path: Path) -> None:
    copy, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shards, copy)
    damage(read_manifest(copy / "val"), 7)
    with running(run, finetune(run, copy, "engine.kind=deepspeed"), on="torchrun") as started:
        assert started.ended() == 1
        said = started.said.partition("elastic")[0]
    status = status_of(started)
    assert (status.state, status.exit_code) == ("failed", 2), said
    assert "cannot be evaluated" in (status.reason or "")
    assert "Traceback" not in said
