"""Linear and attentive probes of a frozen encoder.

- `videomae_linear`: mean of all tokens, batch norm without affine parameters, a linear layer (He et al. 2022, app. A).
- `videomae_attentive`: one learned query attends over all tokens, then a linear layer (Bardes et al. 2024, V-JEPA).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Self

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from finetune.models.interface import Published
from finetune.models.videomae import EncoderModelConfig, encoder_config, encoder_label, load_backbone
from videomae.core.config import configclass
from videomae.models.encoder import VideoEncoder
from videomae.models.transformer import initialize


@configclass
class ProbeConfig(EncoderModelConfig):
    """A frozen encoder and the probe `name`; without weights, the features are random."""

    name: Literal["videomae_linear", "videomae_attentive"] = "videomae_linear"

    @property
    def pretrained(self) -> str:
        return encoder_label(self.weights) + ", frozen"


class Probe(nn.Module):
    """(video_BCTHW) -> logits_BK; the encoder stays frozen and in evaluation mode."""

    def __init__(self, config: ProbeConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        settings = dataclasses.replace(encoder_config(config.encoder, config.weights), drop_path=0.0)
        self.encoder = VideoEncoder(settings)
        self.pool = AttentivePool(settings.dim, settings.heads) if config.name == "videomae_attentive" else MeanPool()
        self.norm = nn.BatchNorm1d(settings.dim, affine=False) if config.name == "videomae_linear" else nn.Identity()
        self.head = nn.Linear(settings.dim, classes)
        initialize(self, xavier=False)
        if initialise and config.weights is not None:
            load_backbone(self.encoder, config.weights)
        self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, video_BCTHW: Tensor) -> Tensor:
        """features_BD, the input of the linear layer."""
        self.input.check(video_BCTHW)
        return self.norm(self.pool(self.encoder(video_BCTHW)))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.head(self.features(video_BCTHW))


class MeanPool(nn.Module):
    """features_BD: the mean of all tokens."""

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return tokens_BND.mean(1)


class AttentivePool(nn.Module):
    """features_BD: attention of one learned query over all tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, heads, 1, dim // heads))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def weights(self, tokens_BND: Tensor) -> Tensor:
        """Attention weights_BHN of each head over the tokens."""
        key, _ = self._split(tokens_BND)
        return torch.softmax((self.query * key).sum(-1) / key.shape[-1] ** 0.5, dim=-1)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        key, value = self._split(tokens_BND)
        query = self.query.expand(tokens_BND.shape[0], -1, -1, -1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "b h 1 d -> b (h d)"))

    def _split(self, tokens_BND: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.key_value(self.norm(tokens_BND)).chunk(2, dim=-1)
        pattern = "b n (h d) -> b h n d"
        return rearrange(key, pattern, h=self.heads), rearrange(value, pattern, h=self.heads)


PUBLISHED = {
    "videomae_linear": Published(source="linear probing as in MAE; no figures on RWF-2000"),
    "videomae_attentive": Published(source="attentive probing as in V-JEPA; no figures on RWF-2000"),
}
