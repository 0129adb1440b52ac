"""Non-local blocks (Wang et al. 2018, arXiv 1711.07971): each position of a 3D map attends to all others.

The weight of the last batch norm starts at zero, so that a new block is the identity and can be inserted into a
pretrained network (section 4.1). Keys and values are subsampled by 2 x 2 max pooling over space.

Shapes: B batch, C channels, T frames, H height, W width, N = T * H * W positions, M positions after subsampling.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

Similarity = Literal["gaussian", "embedded_gaussian", "dot_product"]


class NonLocal(nn.Module):
    """x + BN(W(y)), where y_i is the mean of g(x_j) weighted by the similarity f(x_i, x_j); maps_BCTHW in and out.

    Similarities, section 3.2: `gaussian` exp(x_i . x_j), `embedded_gaussian` exp(theta(x_i) . phi(x_j)), both
    normalised over j (a softmax); `dot_product` theta(x_i) . phi(x_j) / M.
    """

    def __init__(self, channels: int, *, similarity: Similarity) -> None:
        super().__init__()
        self.similarity: Similarity = similarity
        inner = max(channels // 2, 1)
        if similarity != "gaussian":
            self.theta = nn.Conv3d(channels, inner, 1)
            self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.subsample = nn.MaxPool3d((1, 2, 2), ceil_mode=True)
        self.out = nn.Conv3d(inner, channels, 1)
        self.norm = nn.BatchNorm3d(channels)
        nn.init.zeros_(self.norm.weight)

    def weights(self, maps_BCTHW: Tensor) -> Tensor:
        """Attention weights_BNM of position i over positions j."""
        sampled = self.subsample(maps_BCTHW)
        if self.similarity == "gaussian":
            queries, keys = maps_BCTHW, sampled
        else:
            queries, keys = self.theta(maps_BCTHW), self.phi(sampled)
        scores_BNM = queries.flatten(2).transpose(1, 2) @ keys.flatten(2)
        if self.similarity == "dot_product":
            return scores_BNM / scores_BNM.shape[-1]
        return torch.softmax(scores_BNM, dim=-1)

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        values_BMC = self.g(self.subsample(maps_BCTHW)).flatten(2).transpose(1, 2)
        mixed_BNC = self.weights(maps_BCTHW) @ values_BMC
        time, height = maps_BCTHW.shape[2:4]
        mixed = rearrange(mixed_BNC, "b (t h w) c -> b c t h w", t=time, h=height)
        return maps_BCTHW + self.norm(self.out(mixed))
