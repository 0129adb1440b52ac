"""The benchmark of loading: every way makes the clips it should, and the ratios follow from the rates."""

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.loading import Measured, bench, main
from benchmarks.loading_ways import FRAMES, SIZE, crop_clips
from videomae.data.build.build import BuildConfig, build
from videomae.data.build.sources import find_sources
from videomae.data.errors import SourceError
from videomae.data.order.permutation import generator
from videomae.data.shards.reader import ShardReader


@pytest.fixture
def small_videos(tmp_path: Path, write_video: Callable[..., Path]) -> Path:
    """6 videos of 64 x 128 pixels; decord fails on smaller ones."""
    for number in range(6):
        write_video(tmp_path / "videos" / f"{number}.mp4", number, height=64, width=128)
    return tmp_path / "videos"


@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_the_benchmark_reports_all_figures(small_videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("decord", reason="the official way needs decord: pip install -e '.[bench]'")
    assert main([str(small_videos), "--clips", "4", "--rounds", "1", "--workers", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rates = result["per_core"]
    assert result["ratio_official"] == pytest.approx(rates["ours"] / rates["official"])
    assert result["ratio_official_k4"] == pytest.approx(rates["ours_k4"] / rates["official"])
    assert result["ratio_originals"] == pytest.approx(rates["ours"] / rates["official_originals"])
    assert result["ratio_webdataset"] == pytest.approx(rates["ours"] / rates["webdataset"])
    assert result["fraction_of_floor"] == pytest.approx(rates["ours"] / rates["floor"])
    assert result["packing"]["psnr"] > 25
    assert result["clips"] == 4
    gc.collect()  # webdataset leaves its files to the collector, which warns of them


@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more than the cores of this machine
def test_every_worker_has_a_shard(small_videos: Path) -> None:
    with pytest.raises(SourceError, match="4 readable clips for 5 workers"):
        bench(small_videos, clips=4, rounds=1, workers=(5,), official=False)
    assert bench(small_videos, clips=6, rounds=1, workers=(5,), official=False).workers[5].rates["webdataset"] > 0
    gc.collect()  # as above


def test_ratios_are_medians_of_those_of_each_round() -> None:
    """So that a round in which the machine was slow for all moves nothing."""
    found = Measured.of({"ours": [1.0, 10.0, 2.0], "webdataset": [2.0, 30.0, 4.0], "webdataset_lent": [1.0, 10.0, 4.0]})
    assert found.rates == {"ours": 0.5, "webdataset": 0.25, "webdataset_lent": 0.25}
    assert found.ratios == {"ratio_webdataset": 2.0, "ratio_webdataset_lent": 1.0}


def test_crops_of_one_decoding_are_those_of_decodings_apart(small_videos: Path, tmp_path: Path) -> None:
    manifest = build(find_sources(small_videos, unlabelled=True), tmp_path / "out", BuildConfig()).manifests["train"]
    sample = ShardReader(manifest).read(0)
    rngs = [generator(key=(0, 0), counter=(0, repeat, 4)) for repeat in range(3)]
    together = crop_clips(sample, tuple(rngs))
    first = crop_clips(sample, (generator(key=(0, 0), counter=(0, 0, 4)),))
    assert [clip.shape for clip in together] == [(FRAMES, 3, SIZE, SIZE)] * 3
    assert torch.equal(together[0], first[0])
    assert not torch.equal(together[0], together[1])
