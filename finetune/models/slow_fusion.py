"""Slow fusion (Karpathy et al. 2014, section 3.1): 3D convolutions fuse time gradually through the network.

The course's small 3D CNN: four stages of 3 x 3 x 3 convolution, batch norm and ReLU; space is halved after each, time
after all but the first.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from finetune.models.interface import ModelInput, Published
from finetune.models.resnet import classifier
from videomae.core.config import configclass
from videomae.core.errors import UserError


@configclass
class SlowFusionConfig:
    """Four stages of 1, 2, 4 and 8 times `width` channels."""

    name: Literal["slow_fusion"] = "slow_fusion"
    frames: int = 16
    size: int = 112
    width: int = 32

    def __post_init__(self) -> None:
        if self.frames < 4 or self.size < 8 or self.width < 1:
            raise UserError(
                f"slow_fusion halves time twice and space 3 times and needs at least 4 frames of "
                f"8 x 8 and a width of 1, got frames={self.frames}, size={self.size}, width={self.width}"
            )

    @property
    def input(self) -> ModelInput:
        return ModelInput(frames=self.frames, size=self.size)

    @property
    def pretrained(self) -> str:
        return "scratch"


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
        self.classifier = classifier(widths[-1], classes)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        self.input.check(video_BCTHW)
        return self.classifier(self.average(self.stages(video_BCTHW)).flatten(1))


PUBLISHED = {"slow_fusion": Published(source="Karpathy et al. 2014; the course gives no figures")}
