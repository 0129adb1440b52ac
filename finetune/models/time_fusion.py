"""Ways to fuse frames over time (Karpathy et al. 2014, section 3), on the course's networks.

- `single_frame` classifies each frame and averages the logits, so the order of frames does not matter.
- `late_fusion` averages the features of single frames, `late_fusion_fc` concatenates them, before the classifier.
- `early_fusion` stacks frames on the channel axis, so that only the first convolution mixes time.
- `slow_fusion` mixes time gradually: four stages of 3 x 3 x 3 convolution, batch norm and ReLU. Space is halved after
  the first three, time after the second and third.
- `multi_resolution` gets whole frames at half resolution and their central half at full resolution (the fovea), which
  together cost half as much as whole frames at full resolution; features are averaged over time and concatenated.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from finetune.models import resnet
from finetune.models.interface import FramesConfig, Published, WeightsConfig
from videomae.core.config import configclass


@configclass
class SingleFrameConfig(WeightsConfig):
    """ResNet-18 -> 512 -> 128 -> classes per frame."""

    name: Literal["single_frame"] = "single_frame"


class SingleFrame(nn.Module):
    """(video_BCTHW) -> logits_BK, the mean over frames of `frame_logits`."""

    def __init__(self, config: SingleFrameConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        self.network = resnet.resnet18(weights=config.weights if initialise else None)
        self.classifier = resnet.classifier(resnet.WIDTH, classes)

    def frame_logits(self, video_BCTHW: Tensor) -> Tensor:
        """logits_BTK of single frames."""
        return self.classifier(resnet.frame_features(self.network, video_BCTHW))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.frame_logits(video_BCTHW).mean(1)


@configclass
class LateFusionConfig(WeightsConfig):
    """ResNet-18 -> 512 per frame -> fusion over time -> 128 -> classes."""

    name: Literal["late_fusion", "late_fusion_fc"] = "late_fusion"


class LateFusion(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: LateFusionConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        self.concatenates = config.name == "late_fusion_fc"
        self.network = resnet.resnet18(weights=config.weights if initialise else None)
        self.classifier = resnet.classifier(resnet.WIDTH * (config.frames if self.concatenates else 1), classes)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        features_BTD = resnet.frame_features(self.network, video_BCTHW)
        return self.classifier(features_BTD.flatten(1) if self.concatenates else features_BTD.mean(1))


@configclass
class EarlyFusionConfig(WeightsConfig):
    """ResNet-18 with 3T input channels -> 512 -> 128 -> classes."""

    name: Literal["early_fusion"] = "early_fusion"


class EarlyFusion(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: EarlyFusionConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        self.network = resnet.resnet18(weights=config.weights if initialise else None, conv1_frames=config.frames)
        self.classifier = resnet.classifier(resnet.WIDTH, classes)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.classifier(self.network(rearrange(video_BCTHW, "b c t h w -> b (t c) h w")))


@configclass
class SlowFusionConfig(FramesConfig):
    """Four stages of 1, 2, 4 and 8 times `width` channels."""

    name: Literal["slow_fusion"] = "slow_fusion"
    frames: int = Field(16, ge=4)  # time is halved twice, space three times
    size: int = Field(112, ge=8)
    width: PositiveInt = 32


class SlowFusion(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: SlowFusionConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        del initialise  # there are no pretrained weights
        self.input = config.input
        widths = [3, *(config.width * 2**stage for stage in range(4))]
        stages: list[nn.Module] = []
        for stage, (before, after) in enumerate(pairwise(widths)):
            stages += [nn.Conv3d(before, after, 3, padding=1, bias=False), nn.BatchNorm3d(after), nn.ReLU()]
            if stage < 3:
                stages.append(nn.MaxPool3d((1 if stage == 0 else 2, 2, 2)))
        self.stages = nn.Sequential(*stages)
        self.average = nn.AdaptiveAvgPool3d(1)
        self.classifier = resnet.classifier(widths[-1], classes)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.classifier(self.average(self.stages(video_BCTHW)).flatten(1))


@configclass
class MultiResolutionConfig(WeightsConfig):
    """Two ResNet-18 on frames of half the size -> 1024 -> 128 -> classes."""

    name: Literal["multi_resolution"] = "multi_resolution"
    size: int = Field(224, gt=0, multiple_of=2)  # the fovea is half of it


class MultiResolution(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: MultiResolutionConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        weights = config.weights if initialise else None
        self.context = resnet.resnet18(weights=weights)
        self.fovea = resnet.resnet18(weights=weights)
        self.classifier = resnet.classifier(2 * resnet.WIDTH, classes)

    def views(self, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Context and fovea of every frame, two tensors of (B * T, 3, size / 2, size / 2)."""
        frames_NCHW = rearrange(video_BCTHW, "b c t h w -> (b t) c h w")
        half, quarter = self.input.size // 2, self.input.size // 4
        fovea_NCHW = frames_NCHW[..., quarter : quarter + half, quarter : quarter + half]
        return functional.avg_pool2d(frames_NCHW, 2), fovea_NCHW

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        context_NCHW, fovea_NCHW = self.views(video_BCTHW)
        features_ND = torch.cat([self.context(context_NCHW), self.fovea(fovea_NCHW)], dim=1)
        return self.classifier(rearrange(features_ND, "(b t) d -> b t d", t=self.input.frames).mean(1))


_TABLE = "course, RWF-2000 table"
PUBLISHED = {
    "single_frame": Published(source=_TABLE, parameters=11.5, rwf2000=72.8, pretrained="ImageNet"),
    "late_fusion": Published(source=_TABLE, parameters=11.5, rwf2000=73.0, pretrained="ImageNet"),
    "late_fusion_fc": Published(source="course, the concatenating variant, no figures given"),
    "early_fusion": Published(source=_TABLE, parameters=11.6, rwf2000=76.3, pretrained="ImageNet"),
    "slow_fusion": Published(source="Karpathy et al. 2014; the course gives no figures"),
    "multi_resolution": Published(source="Karpathy et al. 2014; the course gives no figures"),
}
