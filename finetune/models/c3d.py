"""C3D (Tran et al. 2015, arXiv 1412.0767): eight 3 x 3 x 3 convolutions and three linear layers."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from finetune.models.interface import HALF, FramesConfig, ModelInput, Published
from videomae.core.config import configclass

_WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
_POOLED_AFTER = (1, 2, 4, 6, 8)  # the first pool halves space only


@configclass
class C3dConfig(FramesConfig):
    """16 frames of 112 x 112; `shrink` divides all widths, for tests."""

    name: Literal["c3d"] = "c3d"
    frames: int = Field(16, ge=16)  # time and space are halved at least four times
    size: int = Field(112, ge=16)
    dropout: float = 0.5
    shrink: int = Field(1, ge=1, le=64)

    @property
    def input(self) -> ModelInput:
        return ModelInput(frames=self.frames, size=self.size, mean=HALF, std=HALF, frame_sampling="clip")


class C3d(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: C3dConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        del initialise  # there are no pretrained weights
        self.input = config.input
        widths = [3, *(width // config.shrink for width in _WIDTHS)]
        self.features = nn.Sequential()
        for index, (before, after) in enumerate(pairwise(widths), start=1):
            self.features.add_module(f"conv{index}", nn.Conv3d(before, after, 3, padding=1))
            self.features.add_module(f"relu{index}", nn.ReLU())
            if index in _POOLED_AFTER:
                kernel = (1 if index == 1 else 2, 2, 2)
                padding = (0, 1, 1) if index == 8 else 0
                self.features.add_module(f"pool{index}", nn.MaxPool3d(kernel, padding=padding))
        flat = widths[-1] * (config.frames // 16) * (config.size // 16 // 2 + 1) ** 2
        hidden = 4096 // config.shrink
        self.fc6 = nn.Linear(flat, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(config.dropout)
        for layer in self.modules():  # without norms, torch's default would shrink activations eightfold per layer
            if isinstance(layer, (nn.Conv3d, nn.Linear)) and layer is not self.fc8:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias) if layer.bias is not None else None

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        features_BD = self.features(video_BCTHW).flatten(1)
        features_BD = self.dropout(torch.relu(self.fc6(features_BD)))
        return self.fc8(self.dropout(torch.relu(self.fc7(features_BD))))


PUBLISHED = {
    "c3d": Published(
        source="course, C3D per layer (16 x 112 x 112, 101 classes)",
        parameters=78.4,
        gmacs=39.5,
        classes=101,
        note="the eight convolutions agree layer by layer, 38.50 in total; the linear layers have 0.05 GMACs, for "
        "which the course gives 0.51, and 39.5 for the network",
    )
}
