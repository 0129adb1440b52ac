"""S3D: separable 3D Inception (Xie et al. 2018, arXiv 1712.04851), torchvision's network with two changes.

A global average replaces its fixed 2 x 7 x 7 pooling: equal at 224 x 224 and valid for smaller inputs. The momentum of
its batch norms is torch's default 0.1 instead of 0.001, with which running statistics take thousands of steps to
converge: a short training would be evaluated with statistics of the initial weights.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor, nn

from finetune.models.interface import KINETICS_MEAN, KINETICS_STD, ModelInput, Published, WeightsConfig
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.core.torchvision_compat import models
from videomae.models.weights.files import load_strictly
from videomae.models.weights.torchvision import torchvision_state


@configclass
class S3dConfig(WeightsConfig):
    """torchvision's S3D."""

    name: Literal["s3d"] = "s3d"
    dropout: float = 0.2

    def __post_init__(self) -> None:
        # Shapes would allow 5 to 7 frames, but there the weight gradient of a convolution with kernel 7, stride 2 and
        # padding 3 accesses memory out of bounds on CPUs (torch 2.13 with oneDNN 3.12).
        if self.frames < 8 or self.size < 17:
            raise UserError(
                f"s3d halves time 3 times and space 5 times and needs at least 8 frames of 17 x 17, "
                f"got frames={self.frames}, size={self.size}"
            )

    @property
    def input(self) -> ModelInput:
        return ModelInput(frames=self.frames, size=self.size, mean=KINETICS_MEAN, std=KINETICS_STD)


class S3d(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: S3dConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        norm = partial(nn.BatchNorm3d, eps=1e-3, momentum=0.1)
        self.network = models.video.s3d(num_classes=classes, dropout=config.dropout, norm_layer=norm)
        self.network.add_module("avgpool", nn.AdaptiveAvgPool3d(1))
        if initialise and config.weights is not None:
            state = torchvision_state("s3d", config.weights)
            load_strictly(self.network, state, source=f"weights {config.weights}", fresh=["classifier."])

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.network(video_BCTHW)


PUBLISHED = {
    "s3d": Published(
        source="course, RWF-2000 table (parameters, accuracy); torchvision's S3D_Weights (GMACs, 16 x 224 x 224)",
        parameters=9.1,
        gmacs=17.979,
        rwf2000=78.8,
        pretrained="scratch",
        note="torchvision's S3D has 7.9M parameters with 2 classes and 8.3M with 400; the course does not say which "
        "network has 9.1M",
    )
}
