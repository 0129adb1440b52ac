"""Single-frame CNN: every frame is classified by itself and the frames' logits are averaged; time is not seen."""

from __future__ import annotations

from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from finetune.models import resnet
from finetune.models.contract import ModelInput, Published
from videomae.config import configclass
from videomae.weights.torchvision import source_label


@configclass
class SingleFrameConfig:
    """ResNet-18 -> 512 -> 128 -> classes on each frame."""

    name: Literal["single_frame"] = "single_frame"
    frames: int = 16
    size: int = 224
    weights: str | None = None  # "imagenet", a file, or none

    @property
    def input(self) -> ModelInput:
        return ModelInput(frames=self.frames, size=self.size)

    @property
    def pretrained(self) -> str:
        return source_label(self.weights)


class SingleFrame(nn.Module):
    """(video_BCTHW) -> logits_BK, the mean over frames of `frame_logits`."""

    def __init__(self, config: SingleFrameConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        self.network = resnet.resnet18(weights=config.weights if initialise else None)
        self.classifier = resnet.classifier(resnet.WIDTH, classes)

    def frame_logits(self, video_BCTHW: Tensor) -> Tensor:
        """logits_BTK of each frame by itself."""
        self.input.check(video_BCTHW)
        features_ND = self.network(rearrange(video_BCTHW, "b c t h w -> (b t) c h w"))
        return rearrange(self.classifier(features_ND), "(b t) k -> b t k", t=self.input.frames)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.frame_logits(video_BCTHW).mean(1)


PUBLISHED = {
    "single_frame": Published(source="course, RWF-2000 table", parameters=11.5, rwf2000=72.8, pretrained="ImageNet")
}
