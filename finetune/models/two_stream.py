"""Two-stream networks (Simonyan and Zisserman 2014, arXiv 1406.2199): appearance and motion.

`temporal_stream` classifies the stacked optical flow of the clip, 2(T-1) channels, computed on the fly. `two_stream`
adds a spatial stream, the single-frame network, and averages both probabilities. Fusion by a linear SVM uses the scores
of finished runs: `videomae ensemble --fusion svm RUN RUN`.

Shapes: B batch, C channels, T frames, H height, W width, S streams, K classes.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import cv2
import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from finetune.models import resnet
from finetune.models.interface import ModelInput, Published, WeightsConfig
from finetune.models.time_fusion import SingleFrame, SingleFrameConfig
from videomae.core.config import configclass

BOUND = 20.0  # pixels per frame; larger displacements are clipped (section 5)
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


@configclass
class TwoStreamConfig(WeightsConfig):
    """ResNet-18 -> 512 -> 128 -> classes on the flow; `two_stream` has another one on the frames."""

    name: Literal["temporal_stream", "two_stream"] = "two_stream"
    frames: int = Field(11, ge=2)  # ten flow fields, as in the paper
    size: int = Field(224, ge=16)
    stride: PositiveInt = 1

    @property
    def input(self) -> ModelInput:
        return ModelInput(frames=self.frames, size=self.size, frame_sampling="clip", stride=self.stride)


class TemporalStream(nn.Module):
    """(video_BCTHW) -> logits_BK from the optical flow."""

    def __init__(self, config: TwoStreamConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        weights = config.weights if initialise else None
        self.network = resnet.resnet18(weights=weights, flow_fields=config.frames - 1)
        self.classifier = resnet.classifier(resnet.WIDTH, classes)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.classifier(self.network(stacked_flow(video_BCTHW, self.input.mean, self.input.std)))


class TwoStream(nn.Module):
    """(video_BCTHW) -> logits_BK, the logarithm of the mean of both streams' probabilities."""

    def __init__(self, config: TwoStreamConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        spatial = SingleFrameConfig(frames=config.frames, size=config.size, weights=config.weights)
        self.spatial = SingleFrame(spatial, classes, initialise=initialise)
        self.temporal = TemporalStream(config, classes, initialise=initialise)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        logits_BSK = torch.stack([self.spatial(video_BCTHW), self.temporal(video_BCTHW)], dim=1)
        return logits_BSK.log_softmax(-1).logsumexp(1) - math.log(2)


def build(config: TwoStreamConfig, classes: int, *, initialise: bool = True) -> nn.Module:
    """The model named `config.name`."""
    family = TwoStream if config.name == "two_stream" else TemporalStream
    return family(config, classes, initialise=initialise)


def stacked_flow(video_BCTHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Flow of a normalised video as channels, (B, 2(T-1), H, W) in [-1, 1]: x and y of each pair of frames in turn.

    The mean of each field is subtracted, which removes much of the camera motion (section 3.1). It takes about 2 ms per
    pair of 224 x 224 frames on one core, so it is computed on the augmented clip instead of stored.
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
    """Displacement in pixels from each uint8 frame to the next, float32 (B, T-1, 2, H, W), x before y.

    OpenCV's dense inverse search, as an operator without a gradient that torch.compile and the FLOP counter treat as
    opaque.
    """
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


PUBLISHED = {
    "temporal_stream": Published(source="Simonyan and Zisserman 2014; the course gives no figures"),
    "two_stream": Published(source="Simonyan and Zisserman 2014; the course gives no figures"),
}
