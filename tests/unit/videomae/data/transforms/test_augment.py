"""Augmentation: the same for all frames of a clip, drawn from the generator alone, right in value."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from videomae.data.transforms.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    crop,
    multi_scale_box,
    normalize,
    random_erasing,
    random_horizontal_flip,
    random_resized_box,
    random_resized_crop,
    resize,
    uniform_boxes,
    uniform_crops,
)
from videomae.data.transforms.rand_augment import rand_augment


def still(frames: int = 4, height: int = 60, width: int = 80) -> np.ndarray:
    """A clip whose frames are all the same noise."""
    return np.repeat(np.random.default_rng(0).integers(0, 255, (1, height, width, 3), dtype=np.uint8), frames, axis=0)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


ALTERATIONS = [
    lambda seed: resize(crop(still(), multi_scale_box(60, 80, rng(seed))), 32),
    lambda seed: random_resized_crop(still(), 32, rng(seed)),
    lambda seed: random_horizontal_flip(uniform_crops(still(), 32)[0], rng(seed)),
    lambda seed: random_erasing(uniform_crops(still(), 32)[0], rng(seed), probability=1),
    lambda seed: rand_augment(uniform_crops(still(), 32)[0], "rand-m7-n4-mstd0.5-inc1", rng(seed)),
]


@pytest.mark.parametrize("alter", ALTERATIONS)
def test_all_frames_are_altered_alike_and_reproducibly(alter: Callable[[int], Tensor]) -> None:
    outcomes = set()
    for seed in range(30):
        clip_TCHW: Tensor = alter(seed)
        assert clip_TCHW.shape == (4, 3, 32, 32)
        assert clip_TCHW.dtype == torch.uint8
        assert (clip_TCHW == clip_TCHW[:1]).all()
        assert torch.equal(clip_TCHW, alter(seed))
        outcomes.add(clip_TCHW.numpy().tobytes())
    assert len(outcomes) > 1


@given(st.integers(8, 400), st.integers(8, 400), st.integers(0, 999), st.integers(1, 5))
def test_boxes_lie_inside(height: int, width: int, seed: int, crops: int) -> None:
    boxes = [multi_scale_box(height, width, rng(seed)), random_resized_box(height, width, rng(seed))]
    for box in [*boxes, *uniform_boxes(height, width, crops)]:
        assert 0 <= box.top < box.top + box.height <= height
        assert 0 <= box.left < box.left + box.width <= width


def test_multi_scale_boxes_have_neighbouring_scales() -> None:
    sides = {(box.height, box.width) for box in (multi_scale_box(100, 200, rng(seed)) for seed in range(500))}
    allowed = [100, 87, 75, 66]
    assert sides == {(a, b) for i, a in enumerate(allowed) for j, b in enumerate(allowed) if abs(i - j) <= 1}


def test_resized_boxes_have_the_area_and_aspect_asked_for() -> None:
    boxes = [random_resized_box(240, 320, rng(seed), scale=(0.2, 0.4), ratio=(0.5, 2)) for seed in range(300)]
    areas = np.array([box.height * box.width / (240 * 320) for box in boxes])
    aspects = np.array([box.width / box.height for box in boxes])
    assert 0.19 < areas.min() < 0.22
    assert 0.38 < areas.max() < 0.41
    assert 0.49 < aspects.min() < 0.6
    assert 1.7 < aspects.max() < 2.05


def test_uniform_crops_are_central_or_spread_along_the_long_side() -> None:
    ramp = np.zeros((2, 40, 120, 3), np.uint8) + np.arange(120, dtype=np.uint8)[:, None]
    assert uniform_crops(ramp, 40)[0][0, 0, 0].tolist() == list(range(40, 80))
    assert [int(crop[0, 0, 0, 0]) for crop in uniform_crops(ramp, 40, crops=3)] == [0, 40, 80]
    assert [(box.top, box.left) for box in uniform_boxes(120, 40, 3)] == [(0, 0), (40, 0), (80, 0)]


def test_flip_mirrors_left_and_right() -> None:
    clip_TCHW = torch.arange(24, dtype=torch.uint8).view(1, 3, 2, 4)
    assert random_horizontal_flip(clip_TCHW, rng(), probability=1)[0, 0, 0].tolist() == [3, 2, 1, 0]
    assert random_horizontal_flip(clip_TCHW, rng(), probability=0) is clip_TCHW


def test_erasing_changes_one_box_and_leaves_its_input() -> None:
    clip_TCHW = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    for seed in range(40):
        changed = (random_erasing(clip_TCHW, rng(seed), probability=1) != 0).any(0).any(0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        area = int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        assert 0.01 < area / 64**2 < 0.36
        assert changed.sum() > 0.9 * area
    assert not clip_TCHW.any()
    assert random_erasing(clip_TCHW, rng(), probability=0) is clip_TCHW


def test_normalisation_is_what_the_models_expect() -> None:
    video_BCTHW = torch.randint(0, 256, (2, 3, 4, 5, 6), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (video_BCTHW / 255.0 - mean) / std
    assert torch.allclose(normalize(video_BCTHW, IMAGENET_MEAN, IMAGENET_STD), expected, atol=1e-5)
