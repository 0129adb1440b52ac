"""The interface of all models: input specification, shape check, published figures.

A model is a module `(video_BCTHW) -> logits_BK`. Its config has a `name`, the property `input` (a `ModelInput`) and the
property `pretrained`, which labels the weights that training starts from.

Shapes: B batch, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD
from videomae.models.weights.torchvision import source_label

FrameSampling = Literal["video", "clip"]

HALF = (0.5, 0.5, 0.5)  # as mean and standard deviation: maps [0, 1] to [-1, 1]
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)  # torchvision's video weights
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class InputError(UserError):
    """The shape of a video does not fit the model."""


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """The video that a model expects: `frames` of `size` x `size`, scaled to [0, 1], then (x - mean) / std per channel.

    `frame_sampling` is "video" for frames spread evenly over the file, "clip" for frames `stride` apart.
    """

    frames: int
    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    frame_sampling: FrameSampling = "video"
    stride: int = 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(channels, frames, height, width) of one sample."""
        return (3, self.frames, self.size, self.size)

    def check(self, video_BCTHW: Tensor) -> None:
        """Check the shape of a batch.

        Raises:
            InputError: the shape differs from `shape`.
        """
        if video_BCTHW.dim() != 5 or tuple(video_BCTHW.shape[1:]) != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise InputError(
                f"got a video of shape {tuple(video_BCTHW.shape)}, this model expects (batch, {expected}), which are "
                "(batch, channels, frames, height, width); change frames and size in the config of the model"
            )


@configclass
class FramesConfig:
    """Base config of models on frames of any number and size that have no pretrained weights."""

    name: str
    frames: PositiveInt = 16
    size: PositiveInt = 224

    @property
    def input(self) -> ModelInput:
        return ModelInput(frames=self.frames, size=self.size)

    @property
    def pretrained(self) -> str:
        return "scratch"


@configclass
class WeightsConfig(FramesConfig):
    """Base config of models on frames that may start from torchvision's weights."""

    weights: str | None = None  # "imagenet" or "kinetics", a file, or none

    @property
    def pretrained(self) -> str:
        return source_label(self.weights)


@dataclass(frozen=True, kw_only=True)
class Published:
    """Figures from the literature, to compare with measured ones; None where the source gives none."""

    source: str
    parameters: float | None = None  # in units of 1e6
    gmacs: float | None = None  # in the setting that `source` names
    rwf2000: float | None = None  # accuracy in percent on RWF-2000's validation set
    pretrained: str | None = None  # initial weights behind the published accuracy
    classes: int = 2  # of the network whose parameters and GMACs are published
    frames: int | None = None  # input of the published GMACs; None: the default of the config
    size: int | None = None
    note: str = ""  # explains a deviation of the measured figures
