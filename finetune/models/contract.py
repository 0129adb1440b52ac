"""What every model agrees on: the input it wants, the figures published for it, and how it refuses a wrong video.

A model is a module `(video_BCTHW) -> logits_BK`; its config names the input through an `input` property and says in
`pretrained` where its starting weights come from. Shapes: B batch, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from videomae.core.errors import UserError

FrameSampling = Literal["video", "clip"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # mean and deviation that map [0, 1] to [-1, 1]
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)  # torchvision's video weights
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class InputError(UserError):
    """A video whose shape does not fit the model."""


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """The video that a model takes: `frames` of `size` x `size`, scaled to [0, 1], then (x - mean) / std per channel.

    `span` says which frames: "video" spreads them over the whole file, "clip" takes neighbours `stride` frames apart.
    """

    frames: int
    size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    frame_sampling: FrameSampling = "video"
    stride: int = 1

    def __post_init__(self) -> None:
        if self.frames < 1 or self.size < 1 or self.stride < 1:
            raise UserError(
                f"frames, size and stride must be at least 1, got {self.frames}, {self.size}, {self.stride}"
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(channels, frames, height, width) of one sample."""
        return (3, self.frames, self.size, self.size)

    def check(self, video_BCTHW: Tensor) -> None:
        """Refuse any other shape.

        Raises:
            InputError: names the shape got, the shape wanted and the settings to change.
        """
        if video_BCTHW.dim() != 5 or tuple(video_BCTHW.shape[1:]) != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise InputError(
                f"got a video of shape {tuple(video_BCTHW.shape)}, this model wants (batch, {wanted}) for (batch, "
                "channels, frames, height, width); give it such videos, or change the frames and size of its config"
            )


@dataclass(frozen=True, kw_only=True)
class Published:
    """Figures from the literature, to stand beside what is measured; None where the source gives none."""

    source: str
    parameters: float | None = None  # in units of 1e6
    gmacs: float | None = None  # of the setting that `source` names
    rwf2000: float | None = None  # accuracy in percent on RWF-2000's validation set
    pretrained: str | None = None  # what the published accuracy started from
    classes: int = 2  # of the network that the published figures count
    frames: int | None = None  # of the published GMACs, where not the config's own
    size: int | None = None
    note: str = ""  # why a measured figure differs, where it does


class Config(Protocol):
    """What the registry asks of a model's config."""

    @property
    def name(self) -> str: ...

    @property
    def input(self) -> ModelInput: ...

    @property
    def pretrained(self) -> str: ...
