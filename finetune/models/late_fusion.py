"""Late fusion: features of single frames, fused over time just before the classifier.

Two variants of the course: `late_fusion` averages the features over time, `late_fusion_fc` concatenates them.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from finetune.models import resnet
from finetune.models.interface import Published
from videomae.core.config import configclass


@configclass
class LateFusionConfig(resnet.FramesConfig):
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

    def features(self, video_BCTHW: Tensor) -> Tensor:
        """features_BTD of single frames."""
        self.input.check(video_BCTHW)
        return resnet.frame_features(self.network, video_BCTHW)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        features_BTD = self.features(video_BCTHW)
        return self.classifier(features_BTD.flatten(1) if self.concatenates else features_BTD.mean(1))


PUBLISHED = {
    "late_fusion": Published(source="course, RWF-2000 table", parameters=11.5, rwf2000=73.0, pretrained="ImageNet"),
    "late_fusion_fc": Published(source="course, the concatenating variant, no figures given"),
}
