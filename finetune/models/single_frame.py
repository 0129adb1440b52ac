"""Single-frame CNN: classifies each frame and averages the logits; ignores the order of frames."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from finetune.models import resnet
from finetune.models.interface import Published
from videomae.core.config import configclass


@configclass
class SingleFrameConfig(resnet.FramesConfig):
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
        self.input.check(video_BCTHW)
        return self.classifier(resnet.frame_features(self.network, video_BCTHW))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.frame_logits(video_BCTHW).mean(1)


PUBLISHED = {
    "single_frame": Published(source="course, RWF-2000 table", parameters=11.5, rwf2000=72.8, pretrained="ImageNet")
}
