"""Pretraining on mixed and on drawn data sets: one sequence for any ranks and workers, resumed to the bit; exported."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from pretrain.batch import PretrainBatch
from pretrain.config import PretrainConfig
from pretrain.stream import open_stream
from pretrain.train import train
from tests.processes import call
from tests.stages import losses, pretrain_config
from tests.tiny import world_of_one
from videomae.core.distributed import World
from videomae.data.datasets import manifest_files
from videomae.data.synthetic.images import open_images


@pytest.fixture(scope="module")
def mixed(videos: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The config of two sets, of unlike sizes and shards."""
    other = tmp_path_factory.mktemp("other")
    small = ("--short-side", "64", "--fps", "10", "--samples-per-shard", "3", "--workers", "1")
    call("shards", "build", videos, other, *small)
    return f"data.shards=[{{shards: {shards / 'train'}, weight: 3}}, {{shards: {other / 'val'}}}]"


def batches(config: PretrainConfig, *, start: int, count: int, rank: int = 0, size: int = 1) -> list[PretrainBatch]:
    world = World(rank=rank, size=size, local_rank=0, device=torch.device("cpu"))
    steps = itertools.islice(open_stream(config, world).batches(start), count)
    return [micro_batch for step in steps for micro_batch in step]


def assert_same(ours: list[PretrainBatch], others: list[PretrainBatch]) -> None:
    assert len(ours) == len(others) > 0
    for one, other in zip(ours, others, strict=True):
        assert torch.equal(one.video_BCTHW, other.video_BCTHW)
        assert torch.equal(one.visible_BV, other.visible_BV)
        assert torch.equal(one.hidden_BH, other.hidden_BH)


def test_the_mixture_is_one_sequence_for_any_ranks_workers_and_resumes(
    mixed: str, shards: Path, tmp_path: Path
) -> None:
    config = pretrain_config(tmp_path / "run", shards, mixed, "engine.micro_batch=2")
    workers = pretrain_config(tmp_path / "run", shards, mixed, "engine.micro_batch=2", "loader={workers: 2}")
    alone = batches(config, start=0, count=6)
    ranks = [batches(config, start=0, count=6, rank=rank, size=2) for rank in (0, 1)]
    together = [batch for step in range(6) for rank in ranks for batch in rank[2 * step : 2 * step + 2]]
    assert_same(alone, together)
    assert_same(alone[4 * 4 :], batches(workers, start=4, count=2))


def test_a_run_on_a_mixture_learns_exports_and_says_what_it_saw(mixed: str, shards: Path, tmp_path: Path) -> None:
    config = pretrain_config(tmp_path / "run", shards, mixed)
    run = train(config, world_of_one())
    assert len(losses(run.path)) == 6
    assert "(weight 3)" in json.dumps(json.loads((run.export / "encoder.json").read_text()))
    assert len(json.loads((run.path / "inputs.json").read_text())) == 2
    assert (run.path / "reconstructions" / "clip-0.png").exists()


SYNTHETIC = "{synthetic: {epoch: 24}, weight: 3}"


@pytest.mark.parametrize("alone", [True, False])
def test_drawn_clips_are_one_sequence_for_any_ranks_workers_and_resumes(
    alone: bool, shards: Path, tmp_path: Path
) -> None:
    source = SYNTHETIC if alone else f"[{SYNTHETIC}, {{shards: {shards / 'train'}}}]"

    def config(workers: int) -> PretrainConfig:
        settings = (f"data.shards={source}", "engine.micro_batch=2", f"loader={{workers: {workers}}}")
        return pretrain_config(tmp_path / "run", shards, *settings)

    whole = batches(config(0), start=0, count=8)
    ranks = [batches(config(0), start=0, count=8, rank=rank, size=2) for rank in (0, 1)]
    assert_same(whole, [batch for step in range(8) for rank in ranks for batch in rank[2 * step : 2 * step + 2]])
    for workers in (1, 2):
        assert_same(whole[5 * 4 :], batches(config(workers), start=5, count=3))
    if alone:
        clips = {clip.numpy().tobytes() for batch in whole for clip in batch.video_BCTHW}
        assert len(clips) == 8 * 8  # two epochs and more, and no clip twice


def test_a_run_on_drawn_clips_needs_no_file(tmp_path: Path) -> None:
    source = "data.shards={synthetic: {epoch: 24, shapes: circles}}"
    run = train(pretrain_config(tmp_path / "run", tmp_path, source, "schedule.duration=2 epochs"), world_of_one())
    assert len(losses(run.path)) == 6
    assert '"shards": "synthetic"' in json.dumps(json.loads((run.export / "encoder.json").read_text()))
    assert (run.path / "reconstructions" / "clip-0.png").exists()


def test_clips_are_textured_with_frames_of_shards(shards: Path, tmp_path: Path) -> None:
    source = f"data.shards={{synthetic: {{textures: images, images: {shards / 'train'}}}}}"
    config = pretrain_config(tmp_path / "run", shards, source)
    assert open_images(str(shards / "train")).count == 4 * 24
    assert_same(batches(config, start=0, count=1), batches(config, start=0, count=1))
    assert [str(file) for file in manifest_files(config.data.shards)] == [str(shards / "train" / "manifest.json")]
