"""The course's three small networks, which show the receptive fields of late fusion, early fusion and 3D convolution.

Each is conv 3 -> 12, pool 4, conv 12 -> 24, a global average and a linear classifier, on 20 frames of 64 x 64.
`example_late` convolves single frames, `example_early` frames stacked on the channel axis, `example_3d` space and time.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from finetune.models.interface import FramesConfig, Published
from videomae.core.config import configclass
from videomae.core.errors import UserError


@configclass
class ExampleConfig(FramesConfig):
    """Selects one of the three networks."""

    name: Literal["example_late", "example_early", "example_3d"] = "example_late"
    frames: PositiveInt = 20
    size: int = Field(64, ge=4)

    def __post_init__(self) -> None:
        if self.name == "example_3d" and self.frames < 4:
            raise UserError(f"example_3d pools time by 4: frames must be at least 4, got {self.frames}")


class Example(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: ExampleConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        del initialise  # there are no pretrained weights
        self.input = config.input
        self.early = config.name == "example_early"
        time = 3 if config.name == "example_3d" else 1
        if self.early:
            self.conv1: nn.Module = nn.Conv2d(3 * config.frames, 12, 3, padding=1)
            self.pool: nn.Module = nn.MaxPool2d(4)
            self.conv2: nn.Module = nn.Conv2d(12, 24, 3, padding=1)
            self.average: nn.Module = nn.AdaptiveAvgPool2d(1)
        else:
            self.conv1 = nn.Conv3d(3, 12, (time, 3, 3), padding=(time // 2, 1, 1))
            self.pool = nn.MaxPool3d((4 if time == 3 else 1, 4, 4))
            self.conv2 = nn.Conv3d(12, 24, (time, 3, 3), padding=(time // 2, 1, 1))
            self.average = nn.AdaptiveAvgPool3d(1)
        self.classifier = nn.Linear(24, classes)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        maps = video_BCTHW.flatten(1, 2) if self.early else video_BCTHW
        maps = self.pool(functional.relu(self.conv1(maps)))
        maps = self.average(functional.relu(self.conv2(maps)))
        return self.classifier(maps.flatten(1))


PUBLISHED = {
    name: Published(source="course, small example of fusion: sizes and receptive fields, line by line")
    for name in ("example_late", "example_early", "example_3d")
}
