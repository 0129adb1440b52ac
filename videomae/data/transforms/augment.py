"""Clip-consistent augmentation of uint8 frames, and the normalisation that follows on the device.

All frames of a clip share each random draw, and all draws come from the generator passed in. Crop boxes are computed
from sizes alone, so that a decoder can convert only the box.
Shapes: B batch, T frames, C channels (RGB), H height, W width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from videomae.data.batch import AllocClip
from videomae.data.video import Box, FramesTHWC

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)

_ERASED_AREA = (0.02, 1 / 3)  # of the frame (Zhong et al. 2017)
_ERASED_RATIO = (0.3, 1 / 0.3)
_ATTEMPTS = 10


def multi_scale_box(height: int, width: int, rng: np.random.Generator, scales: Sequence[float] = MULTI_SCALES) -> Box:
    """Draw a box of TSN's corner cropping with scale jittering (Wang et al. 2016), as in VideoMAE's pretraining.

    Height and width are two adjacent `scales` of the short side; the position is one of 13 on a 5 x 5 grid.
    """
    sides = [max(1, int(min(height, width) * scale)) for scale in scales]
    pairs = [(tall, wide) for i, tall in enumerate(sides) for j, wide in enumerate(sides) if abs(i - j) <= 1]
    tall, wide = pairs[int(rng.integers(len(pairs)))]
    grid = [(row, column) for row in range(5) for column in range(5) if (row - column) % 2 == 0]
    row, column = grid[int(rng.integers(len(grid)))]
    return Box(top=(height - tall) * row // 4, left=(width - wide) * column // 4, height=tall, width=wide)


def random_resized_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (0.75, 4 / 3),
) -> Box:
    """Draw a box of random relative area and aspect ratio (width / height), as Inception (Szegedy et al. 2015)."""
    for _ in range(_ATTEMPTS):
        area = rng.uniform(*scale) * height * width
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        tall, wide = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < tall <= height and 0 < wide <= width:
            top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
            return Box(top=top, left=left, height=tall, width=wide)
    return uniform_boxes(height, width, 1)[0]


def uniform_boxes(height: int, width: int, crops: int) -> list[Box]:
    """`crops` squares of the short side, evenly spaced along the long side; a single one is centred."""
    side = min(height, width)
    offsets = [0.5] if crops == 1 else [number / (crops - 1) for number in range(crops)]
    return [
        Box(top=round((height - side) * offset), left=round((width - side) * offset), height=side, width=side)
        for offset in offsets
    ]


def crop(frames_THWC: FramesTHWC, box: Box) -> FramesTHWC:
    """The part of the frames inside a box, as a view."""
    return frames_THWC[:, box.top : box.top + box.height, box.left : box.left + box.width]


def resize(frames_THWC: FramesTHWC, size: int, alloc: AllocClip | None = None) -> Tensor:
    """Resize to size x size, bilinear and antialiased, in uint8; returns frames_TCHW, a view of memory from `alloc`."""
    frames_TCHW = torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(0, 3, 1, 2)
    out_TCHW = None if alloc is None else alloc((len(frames_THWC), size, size, 3)).permute(0, 3, 1, 2)
    if frames_TCHW.shape[2:] == (size, size):
        return frames_TCHW if out_TCHW is None else out_TCHW.copy_(frames_TCHW)
    if out_TCHW is None:
        return interpolate(frames_TCHW, size=(size, size), mode="bilinear", antialias=True)
    # The operator that interpolate calls; interpolate itself has no `out`.
    return torch.ops.aten._upsample_bilinear2d_aa.out(frames_TCHW, (size, size), False, out=out_TCHW)


def random_resized_crop(
    frames_THWC: FramesTHWC,
    size: int,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (0.75, 4 / 3),
) -> Tensor:
    """Crop a `random_resized_box` and resize it; returns frames_TCHW, uint8."""
    return resize(crop(frames_THWC, random_resized_box(*_size(frames_THWC), rng, scale=scale, ratio=ratio)), size)


def uniform_crops(frames_THWC: FramesTHWC, size: int, *, crops: int = 1) -> list[Tensor]:
    """Crop `uniform_boxes` and resize them, for evaluation; each frames_TCHW, uint8."""
    return [resize(crop(frames_THWC, box), size) for box in uniform_boxes(*_size(frames_THWC), crops)]


def random_horizontal_flip(
    frames_TCHW: Tensor, rng: np.random.Generator, *, probability: float = 0.5, in_place: bool = False
) -> Tensor:
    """Flip all frames left to right, or none."""
    if rng.random() >= probability:
        return frames_TCHW
    flipped_TCHW = frames_TCHW.flip(-1)
    return frames_TCHW.copy_(flipped_TCHW) if in_place else flipped_TCHW


def random_erasing(frames_TCHW: Tensor, rng: np.random.Generator, *, probability: float) -> Tensor:
    """Fill one box with noise, equal in all frames (Zhong et al. 2017); the input is not changed."""
    if rng.random() >= probability:
        return frames_TCHW
    height, width = frames_TCHW.shape[2:]
    box = random_resized_box(height, width, rng, scale=_ERASED_AREA, ratio=_ERASED_RATIO)
    mean, std = (np.asarray(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    noise = 255 * (mean + std * rng.standard_normal((3, box.height, box.width), dtype=np.float32))
    erased_TCHW = frames_TCHW.clone()
    inside = torch.from_numpy(noise.clip(0, 255).astype(np.uint8))
    erased_TCHW[:, :, box.top : box.top + box.height, box.left : box.left + box.width] = inside
    return erased_TCHW


def normalize(video_BCTHW: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Convert uint8 to contiguous float32, (pixel / 255 - mean) / std per channel, on the input's device."""
    scale_C111, shift_C111 = _scale_and_shift(tuple(mean), tuple(std), video_BCTHW.device)
    floats_BCTHW = video_BCTHW.to(torch.float32, memory_format=torch.contiguous_format)
    return floats_BCTHW * scale_C111 - shift_C111


@functools.cache
@torch.inference_mode(False)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """1 / (255 std) and mean / std, made once for a device: a GPU waits for the host whenever it gets their values."""
    scale_C = torch.tensor([1 / (255 * value) for value in std], device=device)
    shift_C = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale_C.view(-1, 1, 1, 1), shift_C.view(-1, 1, 1, 1)


def _size(frames_THWC: FramesTHWC) -> tuple[int, int]:
    _, height, width, _ = frames_THWC.shape
    return height, width
