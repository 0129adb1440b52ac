"""Early fusion: frames are stacked on the channel axis, so that only the first convolution mixes time."""

from __future__ import annotations

from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from finetune.models import resnet
from finetune.models.interface import Published
from videomae.core.config import configclass


@configclass
class EarlyFusionConfig(resnet.FramesConfig):
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
        self.input.check(video_BCTHW)
        return self.classifier(self.network(rearrange(video_BCTHW, "b c t h w -> b (t c) h w")))


PUBLISHED = {
    "early_fusion": Published(source="course, RWF-2000 table", parameters=11.6, rwf2000=76.3, pretrained="ImageNet")
}
