"""The video encoder: cube embedding, fixed positions, transformer blocks; over all tokens or a visible subset.

VideoMAE (Tong et al. 2022, arXiv 2203.12602, section 3 and appendix): non-overlapping cubes of tubelet x patch x patch
pixels become tokens, a fixed sine-cosine table over the flattened token index marks their place, and plain pre-norm ViT
blocks with joint space-time attention follow. Module names equal the keys of the official checkpoints.

Shapes: B batch, C channels, T frames, H height, W width, N tokens, D width of a token, V visible tokens.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from videomae.core.config import configclass
from videomae.core.errors import UserError


@configclass
class TransformerConfig:
    """Size of a transformer over cubes of video, and of its input; the defaults are ViT-B on 16 frames of 224 x 224."""

    frames: int = 16
    size: int = 224  # pixels, height and width
    tubelet: int = 2  # frames a cube
    patch: int = 16  # pixels a cube, height and width
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    drop_path: float = 0.0  # of the last block; rises linearly from 0 at the first

    def __post_init__(self) -> None:
        for name in ("frames", "size", "tubelet", "patch", "dim", "depth", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.frames % self.tubelet:
            raise UserError(f"frames ({self.frames}) must be a multiple of tubelet ({self.tubelet})")
        if self.size % self.patch:
            raise UserError(f"size ({self.size}) must be a multiple of patch ({self.patch})")
        if self.dim % self.heads:
            raise UserError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        if not 0 <= self.drop_path < 1:
            raise UserError(f"drop_path must lie in [0, 1), got {self.drop_path}")

    @property
    def grid_t(self) -> int:
        """Temporal slices: cubes along time."""
        return self.frames // self.tubelet

    @property
    def grid_size(self) -> int:
        """Cubes along height and along width."""
        return self.size // self.patch

    @property
    def patches_per_frame(self) -> int:
        """Cubes in one temporal slice."""
        return self.grid_size**2

    @property
    def num_patches(self) -> int:
        """Cubes in the whole clip."""
        return self.grid_t * self.patches_per_frame

    @property
    def patch_dim(self) -> int:
        """Pixel values in one cube: tubelet x patch x patch x 3."""
        return self.tubelet * self.patch**2 * 3


@configclass
class EncoderConfig(TransformerConfig):
    """VideoMAE's encoder."""

    final_norm: bool = True  # LayerNorm after the last block; off where a head brings its own


SIZES: dict[str, dict[str, int | float]] = {
    "tiny": {"dim": 192, "depth": 12, "heads": 3},
    "small": {"dim": 384, "depth": 12, "heads": 6},
    "base": {"dim": 768, "depth": 12, "heads": 12},
    "large": {"dim": 1024, "depth": 24, "heads": 16},
    "huge": {"dim": 1280, "depth": 32, "heads": 16},
    "giant": {"patch": 14, "dim": 1408, "depth": 40, "heads": 16, "mlp_ratio": 48 / 11},
}
"""Published sizes (VideoMAE table 8; VideoMAEv2 section 3), as settings of `EncoderConfig`; tiny is DeiT's."""


def sincos_table(tokens: int, dim: int) -> Tensor:
    """Fixed 1-D positions over the flattened token index, (tokens, dim) float32.

    Channel 2i is sin and 2i+1 is cos of index / 10000^(2i/dim) (Vaswani et al. 2017, section 3.5).
    """
    index_N1 = torch.arange(tokens, dtype=torch.float64)[:, None]
    pair_D = torch.arange(dim, dtype=torch.float64) // 2
    angle_ND = index_N1 / 10000 ** (2 * pair_D / dim)
    even_D = torch.arange(dim) % 2 == 0
    return torch.where(even_D, angle_ND.sin(), angle_ND.cos()).float()


class PatchEmbed(nn.Module):
    """Pixels of each cube to one token: a convolution whose kernel equals its stride."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        kernel = (config.tubelet, config.patch, config.patch)
        self.proj = nn.Conv3d(3, config.dim, kernel_size=kernel, stride=kernel)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """Returns tokens_BND, flattened over (time, height, width)."""
        return rearrange(self.proj(video_BCTHW), "b d t h w -> b (t h w) d")


class Attention(nn.Module):
    """Joint self-attention over all given tokens; queries and values have biases, the keys' bias is fixed at zero."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        # The linear module itself is called: reaching for its weight would go round ZeRO-3's gathering.
        query, key, value = self.qkv(tokens_BND).chunk(3, dim=-1)
        query, key, value = (
            rearrange(part, "b n (h d) -> b h n d", h=self.heads)
            for part in (query + self.q_bias, key, value + self.v_bias)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens_BND)))


class DropPath(nn.Module):
    """Drops a residual branch for whole samples and scales the rest up (Huang et al. 2016)."""

    keep: Tensor

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        # A number would be compiled into each block, and every block's differs.
        self.register_buffer("keep", torch.tensor(1 - probability), persistent=False)

    def forward(self, branch_BND: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return branch_BND
        kept_B = torch.bernoulli(self.keep.expand(branch_BND.shape[0]))
        return branch_BND * (kept_B / self.keep).to(branch_BND.dtype).view(-1, *[1] * (branch_BND.dim() - 1))


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)); LayerNorm epsilon 1e-6."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        tokens_BND = tokens_BND + self.drop_path(self.attn(self.norm1(tokens_BND)))
        return tokens_BND + self.drop_path(self.mlp(self.norm2(tokens_BND)))


class VideoEncoder(nn.Module):
    """Cube embedding, positions, blocks, and a final norm if the config has one."""

    positions_ND: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.register_buffer("positions_ND", sincos_table(config.num_patches, config.dim), persistent=False)
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, mlp_ratio=config.mlp_ratio, drop_path=rate) for rate in rates
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6) if config.final_norm else nn.Identity()

    def embed(self, video_BCTHW: Tensor) -> Tensor:
        """Normalised float video to tokens_BND with their positions added; refuses other frame counts and sizes."""
        config = self.config
        wanted = (3, config.frames, config.size, config.size)
        if tuple(video_BCTHW.shape[1:]) != wanted:
            raise UserError(
                f"the encoder takes videos of (channels, frames, height, width) = {wanted}, "
                f"got {tuple(video_BCTHW.shape[1:])}; set frames and size of the data to those of the model"
            )
        tokens_BND = self.patch_embed(video_BCTHW.to(self.patch_embed.proj.weight.dtype))
        return tokens_BND + self.positions_ND.to(tokens_BND.dtype)

    def forward(self, video_BCTHW: Tensor, visible_BV: Tensor | None = None) -> Tensor:
        """Encode a clip.

        Args:
            video_BCTHW: float pixels, normalised as in training.
            visible_BV: int64 indices of the tokens to keep, equally many a sample; None keeps all.

        Returns:
            tokens_BVD in the order of `visible_BV`, or tokens_BND.
        """
        tokens_BND = self.embed(video_BCTHW)
        if visible_BV is not None:
            tokens_BND = take_tokens(tokens_BND, visible_BV)
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return self.norm(tokens_BND)


def take_tokens(tokens_BND: Tensor, index_BK: Tensor) -> Tensor:
    """tokens_BKD: for each sample the tokens at `index_BK`."""
    return tokens_BND.gather(1, index_BK[..., None].expand(-1, -1, tokens_BND.shape[-1]))


def initialize(module: nn.Module, *, xavier: bool) -> None:
    """Initialise every linear and norm layer below `module` in place.

    Pretraining draws linear weights from xavier_uniform, fine-tuning from a normal of 0.02 cut at two deviations
    (official recipes); biases are zero and norms start as the identity.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            if xavier:
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
