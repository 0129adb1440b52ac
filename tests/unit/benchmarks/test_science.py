"""Clips in memory and masks drawn on the device, as the shards' transforms and `pretrain.masking` make them."""

import numpy as np
import pytest
import torch

from benchmarks.science_finetuning import table
from benchmarks.science_memory import ClipMemory, View
from benchmarks.science_pretraining import draw_masks
from benchmarks.science_training import factor, timed
from pretrain.masking import MaskConfig, draw_mask
from videomae.models.encoder import EncoderConfig

ENCODER = EncoderConfig(frames=8, size=32, tubelet=2, patch=8, dim=48, depth=1, heads=3)


@pytest.mark.parametrize("mask", [MaskConfig(kind="tube", ratio=0.75), MaskConfig(kind="random", ratio=0.9)])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_masks_are_those_of_pretraining(mask: MaskConfig, share: float) -> None:
    rng = torch.Generator().manual_seed(0)
    visible_BV, hidden_BH = draw_masks(mask, ENCODER, 6, share, rng)
    expected = draw_mask(mask, ENCODER, np.random.default_rng(0), share=share)
    assert visible_BV.shape[1] == len(expected.visible_V)
    assert hidden_BH.shape[1] == len(expected.hidden_H)
    for visible_V, hidden_H in zip(visible_BV.tolist(), hidden_BH.tolist(), strict=True):
        assert visible_V == sorted(set(visible_V))
        assert hidden_H == sorted(set(hidden_H))
        assert not set(visible_V) & set(hidden_H)
        if mask.kind == "tube":
            times = [{token % 16 for token in visible_V if token // 16 == time} for time in range(4)]
            assert times == [times[0]] * 4
    assert len({tuple(row) for row in visible_BV.tolist()}) > 1


@pytest.mark.parametrize("spread", [False, True])
def test_views_are_crops_of_frames_in_order(spread: bool) -> None:
    time_T, row_H, column_W = torch.arange(12), torch.arange(14), torch.arange(18)
    clip_THWC = torch.stack(torch.meshgrid(time_T, row_H, column_W, indexing="ij"), dim=-1).to(torch.uint8)
    memory = ClipMemory(clip_THWC[None], torch.device("cpu"))
    index_B, rng = torch.zeros(20, dtype=torch.int64), torch.Generator().manual_seed(0)
    video_BCTHW = memory.views(index_B, View(4, 8, spread=spread), rng).long()
    time_BT = video_BCTHW[:, 0, :, 0, 0]
    assert (video_BCTHW[:, 0] == time_BT[:, :, None, None]).all()
    assert (time_BT.diff(dim=1) > 0).all()
    assert bool((time_BT.diff(dim=1) == 1).all()) is not spread
    assert (video_BCTHW[:, 1].diff(dim=2) >= 0).all()
    columns_BW = video_BCTHW[:, 2, 0, 0]
    assert {bool(value) for value in (columns_BW[:, -1] > columns_BW[:, 0])} == {True, False}  # some are flipped
    centre_BCTHW = memory.centre_views(index_B[:1], View(4, 8, spread=spread), number=0).long()
    assert centre_BCTHW[0, 0, :, 0, 0].tolist() == [1, 4, 7, 10]


def test_the_learning_rate_follows_the_time() -> None:
    assert len(list(timed(0.0, until=1e12, decay=0.5))) == 4
    assert len(list(timed(1e6, until=0.0, decay=0.5))) == 4  # the part is over
    assert factor(0.0, decay=0.5) == pytest.approx(0.03)
    assert [factor(done, decay=0.5) for done in (0.3, 0.75, 1.0)] == pytest.approx([1.0, 0.5, 0.0])


def test_the_table_has_means_over_seeds_and_intervals() -> None:
    row = {"title": "S3D", "labels": None}
    results = [{**row, "accuracy": accuracy} for accuracy in (0.5, 0.7)] + [{**row, "labels": 10, "accuracy": 0.6}]
    head, _, line = table(results, 60).splitlines()
    assert head == "| model | all labels | 10 labels a class |"
    assert line == "| S3D | 60.0 % (47 to 71; seeds 50.0, 70.0) | 60.0 % (47 to 71; seeds 60.0) |"
