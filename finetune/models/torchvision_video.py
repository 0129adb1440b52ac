"""Video networks of torchvision under its names: R(2+1)D-18, MViTv2-S, Video Swin T, S and B."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from finetune.models.interface import KINETICS_MEAN, KINETICS_STD, ModelInput, Published, WeightsConfig
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.core.torchvision_compat import models
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD
from videomae.models.weights.files import load_strictly
from videomae.models.weights.torchvision import torchvision_state

Name = Literal["r2plus1d_18", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"]

_STATISTICS = {
    "r2plus1d_18": (KINETICS_MEAN, KINETICS_STD),
    "mvit_v2_s": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
}
_HEADS = {"r2plus1d_18": "fc.", "mvit_v2_s": "head.1."}


@configclass
class TorchvisionVideoConfig(WeightsConfig):
    """16 frames, 2 apart; torchvision trained R(2+1)D at 112 x 112, the others at 224 x 224."""

    name: Name = "r2plus1d_18"

    def __post_init__(self) -> None:
        if self.name == "mvit_v2_s" and (self.frames % 2 or self.size % 32):
            raise UserError(
                f"mvit_v2_s halves time once and space five times: frames must be even and size a multiple of 32, "
                f"got frames={self.frames}, size={self.size}"
            )

    @property
    def input(self) -> ModelInput:
        mean, std = _STATISTICS.get(self.name, (IMAGENET_MEAN, IMAGENET_STD))
        return ModelInput(frames=self.frames, size=self.size, mean=mean, std=std, frame_sampling="clip", stride=2)


class TorchvisionVideo(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: TorchvisionVideoConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        if config.name == "mvit_v2_s":
            self.network = _mvit(config, classes)
        else:
            self.network = models.get_model(config.name, weights=None, num_classes=classes)
        if initialise and config.weights is not None:
            state = torchvision_state(config.name, config.weights)
            head = _HEADS.get(config.name, "head.")
            load_strictly(self.network, state, source=f"weights {config.weights}", fresh=[head])

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.network(video_BCTHW)


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
    return Published(
        source=f"torchvision's weights entry (16 x {size} x {size}, 400 classes)",
        parameters=parameters,
        gmacs=gmacs,
        classes=400,
        size=size,
    )


PUBLISHED = {
    "r2plus1d_18": _published(31.505, 40.519, 112),
    "mvit_v2_s": _published(34.538, 64.224, 224),
    "swin3d_t": _published(28.158, 43.882, 224),
    "swin3d_s": _published(49.817, 82.841, 224),
    "swin3d_b": _published(88.049, 140.667, 224),
}
