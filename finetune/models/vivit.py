"""ViViT (Arnab et al. 2021, arXiv 2103.15691): an image transformer over tubelets of video, factorised in four ways.

`vivit_1` attends jointly over all tokens and a class token. Positions are learned; blocks are the encoder's own.

Shapes: B batch, C channels, T frames, H height, W width, N tokens, D width of a token, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from finetune.models.contract import HALF, ModelInput, Published
from videomae.config import configclass
from videomae.encoder import Block, initialize


@configclass
class VivitConfig:
    """ViViT-B/16x2 on 32 frames; GMACs and parameters are published for 400 classes."""

    name: Literal["vivit_1"] = "vivit_1"
    frames: int = 32
    size: int = 224
    tubelet: int = 2
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.frames % self.tubelet or self.size % self.patch or self.dim % self.heads:
            raise ValueError(
                f"frames ({self.frames}) must be a multiple of tubelet ({self.tubelet}), size ({self.size}) of "
                f"patch ({self.patch}), and dim ({self.dim}) of heads ({self.heads})"
            )

    @property
    def slices(self) -> int:
        """Tubelets along time."""
        return self.frames // self.tubelet

    @property
    def positions(self) -> int:
        """Tubelets in one temporal slice."""
        return (self.size // self.patch) ** 2

    @property
    def input(self) -> ModelInput:
        return ModelInput(frames=self.frames, size=self.size, mean=HALF, std=HALF)

    @property
    def pretrained(self) -> str:
        return "scratch"


class TubeletEmbedding(nn.Module):
    """Non-overlapping tubelets of pixels to tokens_BND, in the order (time, height, width)."""

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        kernel = (config.tubelet, config.patch, config.patch)
        self.proj = nn.Conv3d(3, config.dim, kernel_size=kernel, stride=kernel)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return rearrange(self.proj(video_BCTHW), "b d t h w -> b (t h w) d")


def blocks(config: VivitConfig) -> nn.ModuleList:
    """Pre-norm transformer blocks, the drop path rising with depth."""
    rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
    return nn.ModuleList(Block(config.dim, config.heads, mlp_ratio=config.mlp_ratio, drop_path=rate) for rate in rates)


class JointVivit(nn.Module):
    """Model 1, spatio-temporal attention: every token attends to every other. (video_BCTHW) -> logits_BK."""

    def __init__(self, config: VivitConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        self.patch_embed = TubeletEmbedding(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.slices * config.positions, config.dim))
        self.blocks = blocks(config)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, classes)
        initialize(self, xavier=False)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        """features_BD: the normed class token."""
        self.input.check(video_BCTHW)
        tokens_BND = self.patch_embed(video_BCTHW)
        class_B1D = self.cls_token.expand(len(tokens_BND), -1, -1)
        tokens_BND = torch.cat([class_B1D, tokens_BND], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return self.norm(tokens_BND)[:, 0]

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.head(self.features(video_BCTHW))


PUBLISHED = {
    "vivit_1": Published(
        source="ViViT table 2, Model 1 (ViT-B/16x2, 32 x 224 x 224, 400 classes); course, RWF-2000 table (accuracy)",
        parameters=88.9,
        gmacs=455.2,
        rwf2000=84.8,
        pretrained="image ViT",
        classes=400,
    )
}
