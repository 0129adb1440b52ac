"""ViViT (Arnab et al. 2021, arXiv 2103.15691): an image transformer over tubelets of video, factorised in four ways.

- `vivit_1`, spatio-temporal: joint attention over all tokens and a class token.
- `vivit_2`, factorised encoder: each temporal slice is encoded by itself, then a short encoder runs over the slices.
- `vivit_3`, factorised self-attention: every block attends over space, then over time; no class token.
- `vivit_4`, factorised dot-product: half of the heads attend over space, half over time; no class token.

Positions are learned. Blocks and attention carry the names of the encoder's own, so weights of an image ViT and of
VideoMAE go in by name (vivit_initialisation.py).

Shapes: B batch, C channels, T frames, H height, W width, S temporal slices, P positions in a slice, N tokens (S * P),
D width of a token, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from finetune.models.vivit_config import VivitConfig
from finetune.models.vivit_initialisation import initialise_from
from videomae.models.transformer import Attention, Block, DropPath, Mlp, initialize


class TubeletEmbedding(nn.Module):
    """Pixels to tokens_BSPD: tubelets side by side, or patches of the middle frame of each tubelet's time."""

    def __init__(self, config: VivitConfig) -> None:
        super().__init__()
        self.uniform = config.embedding == "uniform"
        self.tubelet = config.tubelet
        kernel = (1 if self.uniform else config.tubelet, config.patch, config.patch)
        self.proj = nn.Conv3d(3, config.dim, kernel_size=kernel, stride=kernel)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        if self.uniform:
            video_BCTHW = video_BCTHW[:, :, self.tubelet // 2 :: self.tubelet]
        return rearrange(self.proj(video_BCTHW), "b d s h w -> b s (h w) d")


class Vivit(nn.Module):
    """What the four models share: embedding, learned positions, head. (video_BCTHW) -> logits_BK."""

    def __init__(self, config: VivitConfig, classes: int, *, positions: int) -> None:
        super().__init__()
        self.config = config
        self.input = config.input
        self.patch_embed = TubeletEmbedding(config)
        self.pos_embed = nn.Parameter(torch.empty(1, positions, config.dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, classes)

    def embed(self, video_BCTHW: Tensor) -> Tensor:
        """tokens_BSPD without positions; refuses a video of another shape."""
        self.input.check(video_BCTHW)
        return self.patch_embed(video_BCTHW)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        """features_BD: what the head sees."""
        raise NotImplementedError

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.head(self.features(video_BCTHW))


class JointVivit(Vivit):
    """Model 1: every token attends to every other."""

    def __init__(self, config: VivitConfig, classes: int) -> None:
        super().__init__(config, classes, positions=1 + config.grid_t * config.patches_per_frame)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.blocks = _stack(config, config.depth, _joint_block)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        tokens_BND = _with_class(self.cls_token, self.embed(video_BCTHW).flatten(1, 2)) + self.pos_embed
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return self.norm(tokens_BND)[:, 0]


class FactorisedEncoder(Vivit):
    """Model 2: an image encoder on each slice, then `temporal_depth` blocks over the slices' class tokens."""

    def __init__(self, config: VivitConfig, classes: int) -> None:
        super().__init__(config, classes, positions=1 + config.patches_per_frame)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.blocks = _stack(config, config.depth, _joint_block)
        self.temporal_cls = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.temporal_pos = nn.Parameter(torch.empty(1, 1 + config.grid_t, config.dim))
        nn.init.trunc_normal_(self.temporal_pos, std=0.02)
        self.temporal_blocks = _stack(config, config.temporal_depth, _joint_block)
        self.temporal_norm = nn.LayerNorm(config.dim, eps=1e-6)

    def slice_features(self, video_BCTHW: Tensor) -> Tensor:
        """features_BSD of each temporal slice by itself."""
        tokens_BSPD = self.embed(video_BCTHW)
        tokens_NPD = _with_class(self.cls_token, tokens_BSPD.flatten(0, 1)) + self.pos_embed
        for block in self.blocks:
            tokens_NPD = block(tokens_NPD)
        return rearrange(self.norm(tokens_NPD)[:, 0], "(b s) d -> b s d", s=self.config.grid_t)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        tokens_BSD = _with_class(self.temporal_cls, self.slice_features(video_BCTHW)) + self.temporal_pos
        for block in self.temporal_blocks:
            tokens_BSD = block(tokens_BSD)
        return self.temporal_norm(tokens_BSD)[:, 0]


class FactorisedVivit(Vivit):
    """Models 3 and 4: the factorisation stands inside each block; the mean of all tokens is classified."""

    def __init__(self, config: VivitConfig, classes: int) -> None:
        super().__init__(config, classes, positions=config.grid_t * config.patches_per_frame)
        block = _sequential_block if config.name == "vivit_3" else _parallel_block
        self.blocks = _stack(config, config.depth, block)

    def tokens(self, video_BCTHW: Tensor) -> Tensor:
        """tokens_BSPD after the last block and the norm."""
        tokens_BSPD = self.embed(video_BCTHW)
        tokens_BSPD = tokens_BSPD + rearrange(self.pos_embed, "b (s p) d -> b s p d", s=self.config.grid_t)
        for block in self.blocks:
            tokens_BSPD = block(tokens_BSPD)
        return self.norm(tokens_BSPD)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        return self.tokens(video_BCTHW).mean((1, 2))


class SequentialBlock(nn.Module):
    """Model 3's block: attention within each slice, attention along time at each position, MLP.

    The temporal attention's projection starts at zero, so the block starts as an image ViT's (section 3.4).
    """

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.temporal_norm = nn.LayerNorm(dim, eps=1e-6)
        self.temporal_attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens_BSPD: Tensor) -> Tensor:
        batch, slices = tokens_BSPD.shape[:2]
        spatial = self.attn(self.norm1(tokens_BSPD).flatten(0, 1)).unflatten(0, (batch, slices))
        tokens_BSPD = tokens_BSPD + self.drop_path(spatial)
        temporal = self.temporal_attn(rearrange(self.temporal_norm(tokens_BSPD), "b s p d -> (b p) s d"))
        tokens_BSPD = tokens_BSPD + self.drop_path(rearrange(temporal, "(b p) s d -> b s p d", b=batch))
        return tokens_BSPD + self.drop_path(self.mlp(self.norm2(tokens_BSPD)))


class SplitAttention(Attention):
    """Model 4's attention: the first half of the heads within each slice, the second along time at each position."""

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """tokens_BSPD in and out: the two axes of N are kept apart."""
        query, key, value = self.qkv(tokens_BND).chunk(3, dim=-1)
        heads = [
            rearrange(part, "b s p (h d) -> b h s p d", h=self.heads)
            for part in (query + self.q_bias, key, value + self.v_bias)
        ]
        spatial, temporal = zip(*(part.chunk(2, dim=1) for part in heads), strict=True)
        within = functional.scaled_dot_product_attention(*spatial)
        along = functional.scaled_dot_product_attention(*(part.transpose(2, 3) for part in temporal))
        mixed = torch.cat([within, along.transpose(2, 3)], dim=1)
        return self.proj(rearrange(mixed, "b h s p d -> b s p (h d)"))


class ParallelBlock(nn.Module):
    """Model 4's block: split attention, MLP."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SplitAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens_BSPD: Tensor) -> Tensor:
        tokens_BSPD = tokens_BSPD + self.drop_path(self.attn(self.norm1(tokens_BSPD)))
        return tokens_BSPD + self.drop_path(self.mlp(self.norm2(tokens_BSPD)))


def build(config: VivitConfig, classes: int, *, initialise: bool = True) -> Vivit:
    """The model that `config.name` says, from its weights unless `initialise` is off.

    Raises:
        WeightsError: the weights cannot be read or do not fit this model.
    """
    family = {"vivit_1": JointVivit, "vivit_2": FactorisedEncoder}.get(config.name, FactorisedVivit)
    model = family(config, classes)
    initialize(model, xavier=False)
    for module in model.modules():
        if isinstance(module, SequentialBlock):
            nn.init.zeros_(module.temporal_attn.proj.weight)
    if initialise and config.weights is not None:
        initialise_from(model, config)
    return model


def _with_class(token_11D: Tensor, tokens_BND: Tensor) -> Tensor:
    return torch.cat([token_11D.expand(len(tokens_BND), -1, -1), tokens_BND], dim=1)


def _stack(config: VivitConfig, depth: int, block: Callable[[VivitConfig, float], nn.Module]) -> nn.ModuleList:
    rates = torch.linspace(0, config.drop_path, depth, device="cpu").tolist()
    return nn.ModuleList(block(config, rate) for rate in rates)


def _joint_block(config: VivitConfig, drop_path: float) -> nn.Module:
    return Block(config.dim, config.heads, mlp_ratio=config.mlp_ratio, drop_path=drop_path)


def _sequential_block(config: VivitConfig, drop_path: float) -> nn.Module:
    return SequentialBlock(config.dim, config.heads, mlp_ratio=config.mlp_ratio, drop_path=drop_path)


def _parallel_block(config: VivitConfig, drop_path: float) -> nn.Module:
    return ParallelBlock(config.dim, config.heads, mlp_ratio=config.mlp_ratio, drop_path=drop_path)
