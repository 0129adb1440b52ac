"""Building blocks of a vision transformer: attention, MLP, stochastic depth, pre-norm blocks, initialisation.

Parameter names equal the keys of the official VideoMAE checkpoints.

Shapes: B batch, N tokens, Q tokens with queries, K tokens with keys and values, D width of a token.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

_HAS_AMX = torch.cpu._is_amx_tile_supported()


class QkvLinear(nn.Linear):
    """The weights of queries, keys and values in one matrix, whose biases the caller keeps.

    The weight is used in `forward` of the module that owns it: ZeRO-3 gathers parameters in the module's hooks.
    """

    def forward(self, input: Tensor, bias: Tensor | None = None, rows: slice | None = None) -> Tensor:
        """The product with the matrix, or with some of its `rows`, plus the `bias` of these."""
        return functional.linear(input, self.weight if rows is None else self.weight[rows], bias)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens; queries and values have biases, keys have none."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = QkvLinear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def project(self, tokens_BND: Tensor, queries: int | None = None) -> list[Tensor]:
        """Queries of the last `queries` tokens, or of all, and keys and values of all."""
        no_bias = torch.zeros_like(self.v_bias)
        if queries is None or queries == tokens_BND.shape[1]:
            return list(self.qkv(tokens_BND, torch.cat([self.q_bias, no_bias, self.v_bias])).chunk(3, dim=-1))
        dim = self.qkv.in_features
        query_BQD = self.qkv(tokens_BND[:, -queries:], self.q_bias, slice(dim))
        key_value = self.qkv(tokens_BND, torch.cat([no_bias, self.v_bias]), slice(dim, None))
        return [query_BQD, *key_value.chunk(2, dim=-1)]

    def forward(self, tokens_BND: Tensor, queries: int | None = None) -> Tensor:
        """The output for the last `queries` tokens, or for all."""
        return self.proj(attend(*self.project(tokens_BND, queries), heads=self.heads))


def attend(query_BQD: Tensor, key_BKD: Tensor, value_BKD: Tensor, *, heads: int) -> Tensor:
    """Scaled dot-product attention of each head, concatenated: (B, Q, D)."""
    query, key, value = (rearrange(part, "b n (h d) -> b h n d", h=heads) for part in (query_BQD, key_BKD, value_BKD))
    in_products = query.dtype == torch.bfloat16 and query.device.type == "cpu" and not _HAS_AMX
    core = attend_in_products if in_products else functional.scaled_dot_product_attention
    return rearrange(core(query, key, value), "b h n d -> b n (h d)")


def attend_in_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of (B, heads, N, width) by two products and a softmax, which keeps its probabilities for the backward.

    In bfloat16 on processors without AMX it takes two thirds of the fused operator's time. Scores are rounded to
    bfloat16, as under the official code's mixed precision; the softmax computes in float32.
    """
    with torch.autocast(query.device.type, enabled=False):  # it would take the softmax in float32
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.softmax(dim=-1) @ value


class CrossAttention(nn.Module):
    """Multi-head attention of one set of tokens to another; queries and values have biases, keys have none."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_BQD: Tensor, seen_BKD: Tensor) -> Tensor:
        return self.proj(attend(self.q(tokens_BQD), self.k(seen_BKD), self.v(seen_BKD), heads=self.heads))


class Mlp(nn.Module):
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

    def forward(self, tokens_BND: Tensor, queries: int | None = None) -> Tensor:
        """The output for the last `queries` tokens, which attend to all; None computes it for all."""
        mixed = self.drop_path(self.attn(self.norm1(tokens_BND), queries))
        tokens_BQD = (tokens_BND if queries is None else tokens_BND[:, -queries:]) + mixed
        return tokens_BQD + self.drop_path(self.mlp(self.norm2(tokens_BQD)))


class CrossBlock(nn.Module):
    """Pre-norm block whose tokens attend to others, not to each other: x + attention(norm(x), y), x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, round(dim * mlp_ratio))

    def forward(self, tokens_BQD: Tensor, seen_BKD: Tensor) -> Tensor:
        tokens_BQD = tokens_BQD + self.attn(self.norm1(tokens_BQD), seen_BKD)
        return tokens_BQD + self.mlp(self.norm2(tokens_BQD))


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
