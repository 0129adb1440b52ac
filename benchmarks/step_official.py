"""The official VideoMAE's pretraining model, restated plainly from its paper and its description, to measure against.

Tong et al. 2022 (arXiv 2203.12602), section 3 and the appendix: a Conv3d embeds every patch of a normalised clip, a
boolean mask then selects the visible tokens, attention is two batched products around a softmax, the decoder runs over
all tokens, and the targets are computed for every patch before the mask selects the hidden ones. The parameters have
the names of the official checkpoints, which are those of `pretrain.autoencoder`, so both take the same weights.

Shapes: B batch, C channels, T frames, H height, W width, N tokens, V visible tokens, D width, P values of a patch.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from pretrain.autoencoder import DecoderConfig
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD
from videomae.models.encoder import EncoderConfig, sincos_table


class OfficialAttention(nn.Module):
    """Softmax attention that stores its matrix; the bias of the keys is zero and is passed all the same."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        batch, tokens, dim = tokens_BND.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias))
        qkv = functional.linear(tokens_BND, self.qkv.weight, bias)
        query, key, value = qkv.reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = ((query * self.scale) @ key.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, dim))


class OfficialMlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens_BND)))


class OfficialBlock(nn.Module):
    """Pre-norm block."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = OfficialAttention(dim, heads), OfficialMlp(dim, round(dim * mlp_ratio))

    def forward(self, tokens_BND: Tensor) -> Tensor:
        tokens_BND = tokens_BND + self.attn(self.norm1(tokens_BND))
        return tokens_BND + self.mlp(self.norm2(tokens_BND))


class _PatchEmbed(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        kernel = (config.tubelet, config.patch, config.patch)
        self.proj = nn.Conv3d(3, config.dim, kernel_size=kernel, stride=kernel)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.proj(video_BCTHW).flatten(2).transpose(1, 2)


class _Encoder(nn.Module):
    positions_ND: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(config)
        self.register_buffer("positions_ND", sincos_table(config.num_patches, config.dim), persistent=False)
        self.blocks = nn.ModuleList(
            OfficialBlock(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6) if config.final_norm else nn.Identity()

    def forward(self, video_BCTHW: Tensor, mask_BN: Tensor) -> Tensor:
        tokens_BND = self.patch_embed(video_BCTHW)
        tokens_BND = tokens_BND + self.positions_ND.to(tokens_BND.dtype)
        tokens_BVD = tokens_BND[~mask_BN].reshape(len(tokens_BND), -1, tokens_BND.shape[-1])
        for block in self.blocks:
            tokens_BVD = block(tokens_BVD)
        return self.norm(tokens_BVD)


class _Decoder(nn.Module):
    def __init__(self, config: DecoderConfig, *, patch_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(OfficialBlock(config.dim, config.heads, 4.0) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, patch_dim)

    def forward(self, tokens_BND: Tensor, hidden: int) -> Tensor:
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return self.head(self.norm(tokens_BND[:, -hidden:]))


class OfficialAutoencoder(nn.Module):
    """Predicts the hidden patches of a normalised clip; `mask_BN` is True where a token is hidden."""

    positions_ND: Tensor

    def __init__(self, encoder: EncoderConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        self.encoder = _Encoder(encoder)
        self.encoder_to_decoder = nn.Linear(encoder.dim, decoder.dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.dim))
        self.decoder = _Decoder(decoder, patch_dim=encoder.patch_dim)
        self.register_buffer("positions_ND", sincos_table(encoder.num_patches, decoder.dim), persistent=False)

    def forward(self, video_BCTHW: Tensor, mask_BN: Tensor) -> Tensor:
        visible_BVD = self.encoder_to_decoder(self.encoder(video_BCTHW, mask_BN))
        batch, _, dim = visible_BVD.shape
        positions_BND = self.positions_ND.to(visible_BVD.dtype).expand(batch, -1, -1)
        visible_positions = positions_BND[~mask_BN].reshape(batch, -1, dim)
        hidden_positions = positions_BND[mask_BN].reshape(batch, -1, dim)
        tokens_BND = torch.cat([visible_BVD + visible_positions, self.mask_token + hidden_positions], dim=1)
        return self.decoder(tokens_BND, hidden_positions.shape[1])


def official_loss(
    model: nn.Module, video_BCTHW: Tensor, mask_BN: Tensor, *, encoder: EncoderConfig, normalize: bool
) -> Tensor:
    """The loss on a normalised clip: all patches cut and normalised, then the hidden ones selected."""
    with torch.no_grad():
        mean, std = (
            video_BCTHW.new_tensor(three)[None, :, None, None, None] for three in (IMAGENET_MEAN, IMAGENET_STD)
        )
        patches = rearrange(
            video_BCTHW * std + mean,
            "b c (t u) (h p) (w q) -> b (t h w) (u p q) c",
            u=encoder.tubelet,
            p=encoder.patch,
            q=encoder.patch,
        )
        if normalize:
            deviation = patches.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6
            patches = (patches - patches.mean(dim=-2, keepdim=True)) / deviation
        patches_BNP = rearrange(patches, "b n x c -> b n (x c)")
        targets = patches_BNP[mask_BN].reshape(len(patches_BNP), -1, patches_BNP.shape[-1])
    return functional.mse_loss(model(video_BCTHW, mask_BN).float(), targets)
