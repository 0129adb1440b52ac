"""Multi-resolution CNN (Karpathy et al. 2014, section 3.2): a context stream and a fovea stream.

The context stream gets the whole frame at half resolution, the fovea stream its central half at full resolution;
together they cost half as much as one stream at full resolution. Features are averaged over time and concatenated.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from finetune.models import resnet
from finetune.models.interface import Published
from videomae.core.config import configclass
from videomae.core.errors import UserError


@configclass
class MultiResolutionConfig(resnet.FramesConfig):
    """Two ResNet-18 on frames of half the size -> 1024 -> 128 -> classes."""

    name: Literal["multi_resolution"] = "multi_resolution"

    def __post_init__(self) -> None:
        if self.size % 2:
            raise UserError(f"size must be even, since the fovea is half of it; got {self.size}, try {self.size + 1}")


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
        self.input.check(video_BCTHW)
        frames_NCHW = rearrange(video_BCTHW, "b c t h w -> (b t) c h w")
        half, quarter = self.input.size // 2, self.input.size // 4
        fovea_NCHW = frames_NCHW[..., quarter : quarter + half, quarter : quarter + half]
        return functional.avg_pool2d(frames_NCHW, 2), fovea_NCHW

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        context_NCHW, fovea_NCHW = self.views(video_BCTHW)
        features_ND = torch.cat([self.context(context_NCHW), self.fovea(fovea_NCHW)], dim=1)
        features_BTD = rearrange(features_ND, "(b t) d -> b t d", t=self.input.frames)
        return self.classifier(features_BTD.mean(1))


PUBLISHED = {"multi_resolution": Published(source="Karpathy et al. 2014; the course gives no figures")}
