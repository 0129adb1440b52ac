"""Video networks of torchvision under its names: S3D, R(2+1)D-18, MViTv2-S, Video Swin T, S and B.

S3D (Xie et al. 2018, arXiv 1712.04851) has two changes. A global average replaces its fixed 2 x 7 x 7 pooling: equal at
224 x 224 and valid for smaller inputs. The momentum of its batch norms is torch's default 0.1 instead of 0.001, with
which a short training would be evaluated with statistics of the initial weights.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor, nn

from finetune.models.interface import KINETICS_MEAN, KINETICS_STD, ModelInput, Published, WeightsConfig
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.core.torchvision_compat import models
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD
from videomae.models.weights.torchvision import load_torchvision

_STATISTICS = {
    "s3d": (KINETICS_MEAN, KINETICS_STD),
    "r2plus1d_18": (KINETICS_MEAN, KINETICS_STD),
    "mvit_v2_s": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
}
_HEADS = {"s3d": "classifier.", "r2plus1d_18": "fc.", "mvit_v2_s": "head.1."}


@configclass
class TorchvisionVideoConfig(WeightsConfig):
    """16 frames, of S3D spread over the video, else 2 apart; torchvision trained R(2+1)D at 112, the others at 224."""

    name: Literal["s3d", "r2plus1d_18", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"] = "s3d"
    dropout: float = 0.2  # of s3d

    def __post_init__(self) -> None:
        # Shapes would allow 5 to 7 frames, but there the weight gradient of a convolution with kernel 7, stride 2 and
        # padding 3 accesses memory out of bounds on CPUs (torch 2.13 with oneDNN 3.12).
        if self.name == "s3d" and (self.frames < 8 or self.size < 17):
            raise UserError(
                f"s3d halves time 3 times and space 5 times and needs at least 8 frames of 17 x 17, "
                f"got frames={self.frames}, size={self.size}"
            )
        if self.name == "mvit_v2_s" and (self.frames % 2 or self.size % 32):
            raise UserError(
                f"mvit_v2_s halves time once and space five times: frames must be even and size a multiple of 32, "
                f"got frames={self.frames}, size={self.size}"
            )

    @property
    def input(self) -> ModelInput:
        mean, std = _STATISTICS.get(self.name, (IMAGENET_MEAN, IMAGENET_STD))
        if self.name == "s3d":
            return ModelInput(frames=self.frames, size=self.size, mean=mean, std=std)
        return ModelInput(frames=self.frames, size=self.size, mean=mean, std=std, frame_sampling="clip", stride=2)


class TorchvisionVideo(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: TorchvisionVideoConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        if config.name == "s3d":
            self.network = _s3d(config, classes)
        elif config.name == "mvit_v2_s":
            self.network = _mvit(config, classes)
        else:
            self.network = models.get_model(config.name, weights=None, num_classes=classes)
        if initialise and config.weights is not None:
            load_torchvision(self.network, config.name, config.weights, head=_HEADS.get(config.name, "head."))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.network(video_BCTHW)


def _s3d(config: TorchvisionVideoConfig, classes: int) -> nn.Module:
    norm = partial(nn.BatchNorm3d, eps=1e-3, momentum=0.1)
    network = models.video.s3d(num_classes=classes, dropout=config.dropout, norm_layer=norm)
    network.add_module("avgpool", nn.AdaptiveAvgPool3d(1))
    return network


def _mvit(config: TorchvisionVideoConfig, classes: int) -> nn.Module:
    """MViTv2-S for any input size; torchvision's own constructor fixes 16 x 224 x 224."""
    blocks: list[models.video.mvit.MSBlockConfig] = []
    for stage, depth in enumerate((1, 2, 11, 2)):
        for index in range(depth):
            first = stage > 0 and index == 0
            blocks.append(
                models.video.mvit.MSBlockConfig(
                    num_heads=2**stage,
                    input_channels=96 * 2**stage // (2 if first else 1),
                    output_channels=96 * 2**stage,
                    kernel_q=[3, 3, 3],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, 2, 2] if first else [1, 1, 1],
                    stride_kv=[1, 8 >> stage, 8 >> stage],
                )
            )
    return models.video.MViT(
        spatial_size=(config.size, config.size),
        temporal_size=config.frames,
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        stochastic_depth_prob=0.2,
        num_classes=classes,
    )


def _published(parameters: float, gmacs: float, size: int) -> Published:
    source = f"torchvision's weights entry (16 x {size} x {size}, 400 classes)"
    return Published(source=source, parameters=parameters, gmacs=gmacs, classes=400, size=size)


PUBLISHED = {
    "s3d": Published(
        source="course, RWF-2000 table (parameters, accuracy); torchvision's S3D_Weights (GMACs, 16 x 224 x 224)",
        parameters=9.1,
        gmacs=17.979,
        rwf2000=78.8,
        pretrained="scratch",
        note="torchvision's S3D has 7.9M parameters with 2 classes and 8.3M with 400; the course does not say which "
        "network has 9.1M",
    ),
    "r2plus1d_18": _published(31.505, 40.519, 112),
    "mvit_v2_s": _published(34.538, 64.224, 224),
    "swin3d_t": _published(28.158, 43.882, 224),
    "swin3d_s": _published(49.817, 82.841, 224),
    "swin3d_b": _published(88.049, 140.667, 224),
}
