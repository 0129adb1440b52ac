"""ViViT (Arnab et al. 2021, arXiv 2103.15691): transformers over tubelets of video in four factorisations.

- `vivit_1`, spatio-temporal: joint attention over all tokens and a class token.
- `vivit_2`, factorised encoder: a spatial encoder for each time, then a temporal encoder over its class tokens.
- `vivit_3`, factorised self-attention: every block attends over space, then over time; no class token.
- `vivit_4`, factorised dot-product: half of the heads attend over space, half over time; no class token.

Position embeddings are learned. Parameter names equal those of the video encoder, so that vivit_initialisation.py can
load weights of an image ViT or of VideoMAE by name.

Shapes: B batch, C channels, T frames, H height, W width, S times of the patch grid, P positions per time,
N tokens (S * P), D width of a token, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from finetune.models.interface import HALF, ModelInput, Published
from finetune.models.videomae import encoder_label
from finetune.models.vivit_initialisation import initialise_from
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD
from videomae.models.encoder import TransformerConfig
from videomae.models.transformer import Attention, Block, initialize
from videomae.models.weights.export import is_export
from videomae.models.weights.image_vit import image_label


@configclass
class VivitConfig(TransformerConfig):
    """ViViT-B/16x2 on 32 frames."""

    name: Literal["vivit_1", "vivit_2", "vivit_3", "vivit_4"] = "vivit_1"
    frames: PositiveInt = 32
    temporal_depth: int = 4  # of vivit_2
    embedding: Literal["tubelet", "uniform"] = "tubelet"  # uniform: one frame per tubelet (section 3.2)
    weights: str | None = None  # "imagenet", a file of a timm ViT, an exported VideoMAE encoder, or none
    inflation: Literal["central", "average"] = "central"  # of an image ViT's patch kernel (section 3.4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "vivit_4" and self.heads % 2:
            raise UserError(f"vivit_4 splits its heads between space and time: heads must be even, got {self.heads}")

    @property
    def from_videomae(self) -> bool:
        """Whether `weights` is an exported VideoMAE encoder and not an image ViT."""
        return self.weights is not None and is_export(Path(self.weights))

    @property
    def input(self) -> ModelInput:
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if self.from_videomae else (HALF, HALF)
        return ModelInput(frames=self.frames, size=self.size, mean=mean, std=std)

    @property
    def pretrained(self) -> str:
        return encoder_label(self.weights) if self.from_videomae else image_label(self.weights)


class TubeletEmbedding(nn.Module):
    """Embeds tubelets, or patches of the middle frame of each tubelet, as tokens_BSPD."""

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
    """Base of the four models: embedding, learned positions, head. (video_BCTHW) -> logits_BK."""

    def __init__(self, config: VivitConfig, classes: int, *, num_positions: int) -> None:
        super().__init__()
        self.config = config
        self.input = config.input
        self.patch_embed = TubeletEmbedding(config)
        self.pos_embed = nn.Parameter(torch.empty(1, num_positions, config.dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, classes)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        """features_BD, the input of the head."""
        raise NotImplementedError

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.head(self.features(video_BCTHW))


class JointVivit(Vivit):
    """Model 1: every token attends to every other."""

    def __init__(self, config: VivitConfig, classes: int) -> None:
        super().__init__(config, classes, num_positions=1 + config.num_patches)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.blocks = _stack(config, config.depth)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        tokens_BND = _with_class(self.cls_token, self.patch_embed(video_BCTHW).flatten(1, 2)) + self.pos_embed
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return self.norm(tokens_BND)[:, 0]


class FactorisedEncoder(Vivit):
    """Model 2: a spatial encoder for each time, then `temporal_depth` blocks over the class tokens of all times."""

    def __init__(self, config: VivitConfig, classes: int) -> None:
        super().__init__(config, classes, num_positions=1 + config.patches_per_frame)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.blocks = _stack(config, config.depth)
        self.temporal_cls = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.temporal_pos = nn.Parameter(torch.empty(1, 1 + config.grid_t, config.dim))
        nn.init.trunc_normal_(self.temporal_pos, std=0.02)
        self.temporal_blocks = _stack(config, config.temporal_depth)
        self.temporal_norm = nn.LayerNorm(config.dim, eps=1e-6)

    def spatial_features(self, video_BCTHW: Tensor) -> Tensor:
        """features_BSD of each time."""
        tokens_BSPD = self.patch_embed(video_BCTHW)
        tokens_NPD = _with_class(self.cls_token, tokens_BSPD.flatten(0, 1)) + self.pos_embed
        for block in self.blocks:
            tokens_NPD = block(tokens_NPD)
        return rearrange(self.norm(tokens_NPD)[:, 0], "(b s) d -> b s d", s=self.config.grid_t)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        tokens_BSD = _with_class(self.temporal_cls, self.spatial_features(video_BCTHW)) + self.temporal_pos
        for block in self.temporal_blocks:
            tokens_BSD = block(tokens_BSD)
        return self.temporal_norm(tokens_BSD)[:, 0]


class FactorisedVivit(Vivit):
    """Models 3 and 4: attention is factorised within each block; the mean of all tokens is classified."""

    def __init__(self, config: VivitConfig, classes: int) -> None:
        super().__init__(config, classes, num_positions=config.num_patches)
        self.blocks = _stack(config, config.depth, SequentialBlock if config.name == "vivit_3" else ParallelBlock)

    def tokens(self, video_BCTHW: Tensor) -> Tensor:
        """tokens_BSPD after the last block and the norm."""
        tokens_BSPD = self.patch_embed(video_BCTHW)
        tokens_BSPD = tokens_BSPD + rearrange(self.pos_embed, "b (s p) d -> b s p d", s=self.config.grid_t)
        for block in self.blocks:
            tokens_BSPD = block(tokens_BSPD)
        return self.norm(tokens_BSPD)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        return self.tokens(video_BCTHW).mean((1, 2))


class SequentialBlock(Block):
    """Block of model 3: attention over space, attention over time at each position, MLP.

    The projection of the temporal attention starts at zero, so the block starts as that of an image ViT (section 3.4).
    """

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float, drop_path: float) -> None:
        super().__init__(dim, heads, mlp_ratio=mlp_ratio, drop_path=drop_path)
        self.temporal_norm = nn.LayerNorm(dim, eps=1e-6)
        self.temporal_attn = Attention(dim, heads)

    def forward(self, tokens_BND: Tensor, queries: int | None = None) -> Tensor:
        """tokens_BSPD in and out."""
        assert queries is None, "factorised attention computes the output for all tokens"
        tokens_BSPD = tokens_BND
        batch, times = tokens_BSPD.shape[:2]
        spatial = self.attn(self.norm1(tokens_BSPD).flatten(0, 1)).unflatten(0, (batch, times))
        tokens_BSPD = tokens_BSPD + self.drop_path(spatial)
        temporal = self.temporal_attn(rearrange(self.temporal_norm(tokens_BSPD), "b s p d -> (b p) s d"))
        tokens_BSPD = tokens_BSPD + self.drop_path(rearrange(temporal, "(b p) s d -> b s p d", b=batch))
        return tokens_BSPD + self.drop_path(self.mlp(self.norm2(tokens_BSPD)))


def _attend(query_BHXND: Tensor, key_BHXND: Tensor, value_BHXND: Tensor) -> Tensor:
    """Attention over N, in four axes because ONNX has it in no more."""
    query, key, value = (part.flatten(0, 1) for part in (query_BHXND, key_BHXND, value_BHXND))
    return functional.scaled_dot_product_attention(query, key, value).unflatten(0, (-1, query_BHXND.shape[1]))


class SplitAttention(Attention):
    """Attention of model 4: the first half of the heads attends over space, the second over time at each position."""

    def forward(self, tokens_BND: Tensor, queries: int | None = None) -> Tensor:
        """tokens_BSPD in and out."""
        assert queries is None, "split attention computes the output for all tokens"
        heads = [rearrange(part, "b s p (h d) -> b h s p d", h=self.heads) for part in self.project(tokens_BND)]
        spatial, temporal = zip(*(part.chunk(2, dim=1) for part in heads), strict=True)
        over_space = _attend(*spatial)
        over_time = _attend(*(part.transpose(2, 3) for part in temporal))
        mixed = torch.cat([over_space, over_time.transpose(2, 3)], dim=1)
        return self.proj(rearrange(mixed, "b h s p d -> b s p (h d)"))


class ParallelBlock(Block):
    """Block of model 4: split attention, MLP; tokens_BSPD in and out."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float, drop_path: float) -> None:
        super().__init__(dim, heads, mlp_ratio=mlp_ratio, drop_path=drop_path)
        self.attn = SplitAttention(dim, heads)


def build(config: VivitConfig, classes: int, *, initialise: bool = True) -> Vivit:
    """The model named `config.name`, with the weights that the config names unless `initialise` is false.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
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
    return torch.cat([token_11D.expand(tokens_BND.shape[0], -1, -1), tokens_BND], dim=1)


def _stack(config: VivitConfig, depth: int, block: type[Block] = Block) -> nn.ModuleList:
    drop_paths = torch.linspace(0, config.drop_path, depth, device="cpu").tolist()
    return nn.ModuleList(
        block(config.dim, config.heads, mlp_ratio=config.mlp_ratio, drop_path=drop_path) for drop_path in drop_paths
    )


def _published(model: int, parameters: float, gmacs: float, rwf2000: float | None = None) -> Published:
    source = f"ViViT table 2, Model {model} (B/16x2, 32 x 224 x 224, 400 classes)"
    return Published(
        source=source + ("; course, RWF-2000 table (accuracy)" if rwf2000 else ""),
        parameters=parameters,
        gmacs=gmacs,
        rwf2000=rwf2000,
        pretrained="image ViT",
        classes=400,
    )


PUBLISHED = {
    "vivit_1": _published(1, 88.9, 455.2, 84.8),
    "vivit_2": _published(2, 115.1, 284.4),
    "vivit_3": _published(3, 117.3, 372.3),
    "vivit_4": _published(4, 88.9, 277.1),
}
