"""The video encoder: patch embedding, fixed positions and transformer blocks, over all tokens or a visible subset.

VideoMAE (Tong et al. 2022, arXiv 2203.12602, section 3 and appendix): non-overlapping patches of
tubelet x patch x patch pixels are embedded as tokens, a fixed sine-cosine table encodes their positions, and plain
pre-norm ViT blocks with joint space-time attention follow. Parameter names equal the keys of the official checkpoints.

Pixels enter as patches, cut and selected beforehand: the embedding is one matrix product over the patches that the
encoder sees, with the weight of the published models' convolution.

Shapes: B batch, C channels, T frames, H height, W width, N tokens, K selected tokens, D width of a token, P values of a
patch, ordered as (time, height, width, channel).
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.models.transformer import Block


@configclass
class TransformerConfig:
    """Size of a video transformer and of its input; the defaults are ViT-B on 16 frames of 224 x 224."""

    frames: PositiveInt = 16
    size: PositiveInt = 224  # pixels, height and width
    tubelet: PositiveInt = 2  # frames per patch
    patch: PositiveInt = 16  # pixels per patch, height and width
    dim: PositiveInt = 768
    depth: PositiveInt = 12
    heads: PositiveInt = 12
    mlp_ratio: float = 4.0
    drop_path: float = Field(0.0, ge=0, lt=1)  # probability in the last block; rises linearly from 0 in the first

    def __post_init__(self) -> None:
        if self.frames % self.tubelet:
            raise UserError(f"frames ({self.frames}) must be a multiple of tubelet ({self.tubelet})")
        if self.size % self.patch:
            raise UserError(f"size ({self.size}) must be a multiple of patch ({self.patch})")
        if self.dim % self.heads:
            raise UserError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")

    @property
    def grid_t(self) -> int:
        """Patches along time."""
        return self.frames // self.tubelet

    @property
    def grid_size(self) -> int:
        """Patches along height and along width."""
        return self.size // self.patch

    @property
    def patches_per_frame(self) -> int:
        """Patches at one temporal position."""
        return self.grid_size**2

    @property
    def num_patches(self) -> int:
        """Patches in a clip, which is the number of tokens."""
        return self.grid_t * self.patches_per_frame

    @property
    def patch_dim(self) -> int:
        """Pixel values in one patch: tubelet x patch x patch x 3."""
        return self.tubelet * self.patch**2 * 3


@configclass
class EncoderConfig(TransformerConfig):
    """VideoMAE's encoder."""

    final_norm: bool = True  # LayerNorm after the last block; off where the head has its own
    # Fixed position embeddings. sincos_1d: over the flattened token index, as in the official checkpoints. sincos_3d:
    # over time, height and width apart, with which a small model learns sooner from few clips.
    positions: Literal["sincos_1d", "sincos_3d"] = "sincos_1d"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions == "sincos_3d" and self.dim < 6:
            raise UserError(f"positions=sincos_3d needs dim of at least 6, got {self.dim}")


SIZES: dict[str, dict[str, int | float]] = {
    "tiny": {"dim": 192, "depth": 12, "heads": 3},
    "small": {"dim": 384, "depth": 12, "heads": 6},
    "base": {"dim": 768, "depth": 12, "heads": 12},
    "large": {"dim": 1024, "depth": 24, "heads": 16},
    "huge": {"dim": 1280, "depth": 32, "heads": 16},
    "giant": {"patch": 14, "dim": 1408, "depth": 40, "heads": 16, "mlp_ratio": 48 / 11},
}
"""Settings of `EncoderConfig` for the published sizes (VideoMAE table 8; VideoMAEv2 section 3); tiny is DeiT's."""


def position_table(config: EncoderConfig, dim: int) -> Tensor:
    """Fixed position embeddings of width `dim` for the encoder's tokens: positions_ND, float32.

    `sincos_1d` numbers the tokens; `sincos_3d` concatenates the tables of time, height and width, each over about a
    third of the channels, with the base 100 because grids are short.
    """
    if config.positions == "sincos_1d":
        return sincos_table(config.num_patches, dim)
    across = dim // 6 * 2
    grid_THW = (config.grid_t, config.grid_size, config.grid_size)
    widths = (dim - 2 * across, across, across)
    tables = [sincos_table(length, width, base=100.0) for length, width in zip(grid_THW, widths, strict=True)]
    index_3N = torch.cartesian_prod(*(torch.arange(length) for length in grid_THW)).T
    return torch.cat([table[index_N] for table, index_N in zip(tables, index_3N, strict=True)], dim=1)


def sincos_table(length: int, dim: int, *, base: float = 10000.0) -> Tensor:
    """Sine-cosine embeddings of the indices 0 to length - 1, (length, dim) float32.

    Channel 2i is sin and 2i+1 is cos of index / base^(2i/dim) (Vaswani et al. 2017, section 3.5).
    """
    index_N1 = torch.arange(length, dtype=torch.float64)[:, None]
    pair_D = torch.arange(dim, dtype=torch.float64) // 2
    angle_ND = index_N1 / base ** (2 * pair_D / dim)
    even_D = torch.arange(dim) % 2 == 0
    return torch.where(even_D, angle_ND.sin(), angle_ND.cos()).float()


def patchify(video_BCTHW: Tensor, encoder: TransformerConfig) -> Tensor:
    """Cut a clip of any dtype into patches_BNP, both N and P ordered as (time, height, width), P then by channel."""
    return rearrange(
        video_BCTHW, "b c (t u) (h p) (w q) -> b (t h w) (u p q c)", u=encoder.tubelet, p=encoder.patch, q=encoder.patch
    )


def unpatchify(patches_BNP: Tensor, encoder: TransformerConfig) -> Tensor:
    """The inverse of `patchify`: video_BCTHW."""
    return rearrange(
        patches_BNP,
        "b (t h w) (u p q c) -> b c (t u) (h p) (w q)",
        t=encoder.grid_t,
        h=encoder.grid_size,
        u=encoder.tubelet,
        p=encoder.patch,
        q=encoder.patch,
    )


def take_tokens(tokens_BND: Tensor, index_BK: Tensor) -> Tensor:
    """Copy tokens_BKD: for each sample the rows at `index_BK`; any dtype."""
    batch, count, width = tokens_BND.shape
    first_B1 = torch.arange(batch, device=index_BK.device)[:, None] * count
    # Whole rows are copied at once; gather, which takes an index for each value, is ten times as slow on a CPU.
    rows = tokens_BND.reshape(-1, width).index_select(0, (index_BK + first_B1).view(-1))
    return rows.view(batch, -1, width)


class PatchProjection(nn.Conv3d):
    """The convolution of the published models, whose kernel equals its stride, as one matrix product over patches.

    The product stands in `forward` of the module that owns the weight: ZeRO-3 gathers parameters in the module's hooks.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Project patches_BNP, ordered as by `patchify`, to tokens_BND."""
        weight_DP = rearrange(self.weight, "d c u p q -> d (u p q c)")
        return functional.linear(input.to(weight_DP.dtype), weight_DP, self.bias)


class PatchEmbed(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        kernel = (config.tubelet, config.patch, config.patch)
        self.proj = PatchProjection(3, config.dim, kernel_size=kernel, stride=kernel)

    def forward(self, patches_BNP: Tensor) -> Tensor:
        return self.proj(patches_BNP)


class VideoEncoder(nn.Module):
    """Patch embedding, position embeddings, blocks, and a final norm if the config has one."""

    positions_ND: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.register_buffer("positions_ND", position_table(config, config.dim), persistent=False)
        drop_paths = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, mlp_ratio=config.mlp_ratio, drop_path=drop_path) for drop_path in drop_paths
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6) if config.final_norm else nn.Identity()

    def forward(self, video_BCTHW: Tensor, index_BK: Tensor | None = None) -> Tensor:
        """Encode the patches of a normalised float video, all or those at `index_BK`: tokens_BND or tokens_BKD.

        Raises:
            UserError: the video has another number of channels or frames, or another size than the config.
        """
        config = self.config
        expected = (3, config.frames, config.size, config.size)
        if tuple(video_BCTHW.shape[1:]) != expected:
            raise UserError(
                f"the encoder expects videos of (channels, frames, height, width) = {expected}, "
                f"got {tuple(video_BCTHW.shape[1:])}; set frames and size of the data to those of the model"
            )
        patches_BNP = patchify(video_BCTHW, config)
        return self.encode(patches_BNP if index_BK is None else take_tokens(patches_BNP, index_BK), index_BK)

    def encode(self, patches_BKP: Tensor, index_BK: Tensor | None = None) -> Tensor:
        """Encode patches of normalised float pixels, cut by `patchify`: tokens_BKD.

        `index_BK` holds their token indices (int64); None stands for all patches in order.
        """
        positions_ND = self.positions_ND if index_BK is None else functional.embedding(index_BK, self.positions_ND)
        tokens_BKD = self.patch_embed(patches_BKP)
        tokens_BKD = tokens_BKD + positions_ND.to(tokens_BKD.dtype)
        for block in self.blocks:
            tokens_BKD = block(tokens_BKD)
        return self.norm(tokens_BKD)
