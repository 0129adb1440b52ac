"""Building blocks of a vision transformer: attention, MLP, stochastic depth, pre-norm block, initialisation.

Parameter names equal the keys of the official VideoMAE checkpoints.

Shapes: B batch, N tokens, D width of a token.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head self-attention over all tokens; queries and values have biases, keys have none."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        # Calls the module instead of using its weight: ZeRO-3 gathers parameters in the module's hooks.
        query, key, value = self.qkv(tokens_BND).chunk(3, dim=-1)
        query, key, value = (
            rearrange(part, "b n (h d) -> b h n d", h=self.heads)
            for part in (query + self.q_bias, key, value + self.v_bias)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens_BND)))


class DropPath(nn.Module):
    """Stochastic depth per sample (Huang et al. 2016): drops the residual branch, or scales it by 1 / (1 - p)."""

    keep: Tensor

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        # A tensor, not a float: torch.compile would specialise each block on its own constant.
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


def initialize(module: nn.Module, *, xavier: bool) -> None:
    """Initialise every linear and LayerNorm module in `module` in place, as the official recipes do.

    Linear weights are drawn from xavier_uniform for pretraining (`xavier`), from a normal of standard deviation 0.02
    truncated at +-2 for fine-tuning. Biases are zero, and norms start as the identity.
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
