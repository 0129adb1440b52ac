"""Linear and attentive probes of a frozen encoder.

- `videomae_linear`: statistics of all tokens, standardized, and a linear layer, which finetune/linear_probe.py fits.
- `videomae_attentive`: one learned query attends over all tokens, then a linear layer (Bardes et al. 2024, V-JEPA).

Shapes: B batch, T temporal positions, P patches per frame, N = T x P tokens, D width, F features.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Self

import torch
from einops import rearrange
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.nn import functional

from finetune.models.interface import Published
from finetune.models.videomae import EncoderModelConfig, encoder_label
from videomae.core.config import configclass
from videomae.models.encoder import VideoEncoder
from videomae.models.transformer import initialize
from videomae.models.weights.export import encoder_config, load_backbone


@configclass
class ProbeConfig(EncoderModelConfig):
    """A frozen encoder and the probe `name`; without weights, the features are random."""

    name: Literal["videomae_linear", "videomae_attentive"] = "videomae_linear"
    penalty: NonNegativeFloat = 0.01  # of the linear probe: times the sum of its squared weights

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
        if config.name == "videomae_attentive":
            self.pool, self.norm, width = AttentivePool(settings.dim, settings.heads), nn.Identity(), settings.dim
        else:
            self.pool = StatisticsPool(settings.grid_t)
            width = StatisticsPool.FEATURES * settings.dim
            self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-12)
        self.head = nn.Linear(width, classes)
        initialize(self, xavier=False)
        if initialise and config.weights is not None:
            load_backbone(self.encoder, config.weights)
        self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, video_BCTHW: Tensor) -> Tensor:
        """features_BF, the input of the linear layer."""
        return self.norm(self.pool(self.encoder(video_BCTHW)))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.head(self.features(video_BCTHW))


class StatisticsPool(nn.Module):
    """features_BF: mean and deviation of all tokens, and the mean absolute change of a frame's mean token in time.

    Without the change in time, motion would have to show in the mean of the tokens.
    """

    FEATURES = 3

    def __init__(self, grid_t: int) -> None:
        super().__init__()
        self.grid_t = grid_t

    def forward(self, tokens_BND: Tensor) -> Tensor:
        means_BTD = rearrange(tokens_BND, "b (t p) d -> b t p d", t=self.grid_t).mean(2)
        change_BD = means_BTD.diff(dim=1).abs().mean(1) if self.grid_t > 1 else torch.zeros_like(means_BTD[:, 0])
        return torch.cat([tokens_BND.mean(1), tokens_BND.std(1), change_BD], dim=1)


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
    "videomae_linear": Published(source="linear probe; no figures on RWF-2000"),
    "videomae_attentive": Published(source="attentive probing as in V-JEPA; no figures on RWF-2000"),
}
