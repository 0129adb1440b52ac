"""Optical flow between consecutive frames by dense inverse search of OpenCV.

It takes about 2 ms per pair of 224 x 224 frames on one core, so it is computed on the augmented clip instead of stored.
It is a custom operator without a gradient, which torch.compile and the FLOP counter treat as opaque.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
import torch
from torch import Tensor

BOUND = 20.0  # pixels per frame; larger displacements are clipped (Simonyan and Zisserman 2014, section 5)

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def stacked_flow(video_BCTHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Flow of a normalised video as channels, (B, 2(T-1), H, W) in [-1, 1]: x and y of each pair of frames in turn.

    The mean of each field is subtracted, which removes much of the camera motion (section 3.1 there).
    """
    grey_BTHW = torch.zeros_like(video_BCTHW[:, 0])
    for channel, weight in enumerate(_GREY):
        grey_BTHW = grey_BTHW + weight * (video_BCTHW[:, channel] * std[channel] + mean[channel])
    uint8_BTHW = (grey_BTHW.float() * 255).round().clamp(0, 255).to(torch.uint8)
    flow = optical_flow(uint8_BTHW).flatten(1, 2)  # (B, 2(T-1), H, W)
    flow = (flow - flow.mean((2, 3), keepdim=True)).clamp(-BOUND, BOUND) / BOUND
    return flow.to(video_BCTHW.dtype)


@torch.library.custom_op("finetune::optical_flow", mutates_args=())
def optical_flow(grey_BTHW: Tensor) -> Tensor:
    """Displacement in pixels from each uint8 frame to the next, float32 (B, T-1, 2, H, W), x before y."""
    frames_BTHW = np.ascontiguousarray(grey_BTHW.cpu().numpy())
    search = cast(Any, cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST))
    batch, frames, height, width = frames_BTHW.shape
    flow = np.empty((batch, frames - 1, 2, height, width), dtype=np.float32)
    for clip in range(batch):
        for frame in range(frames - 1):
            field_HW2 = search.calc(frames_BTHW[clip, frame], frames_BTHW[clip, frame + 1], None)
            flow[clip, frame] = np.moveaxis(field_HW2, -1, 0)
    return torch.from_numpy(flow).to(grey_BTHW.device)


@optical_flow.register_fake
def _(grey_BTHW: Tensor) -> Tensor:
    batch, frames, height, width = grey_BTHW.shape
    return grey_BTHW.new_empty(batch, frames - 1, 2, height, width, dtype=torch.float32)
