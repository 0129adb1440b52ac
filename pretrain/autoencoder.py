"""The masked autoencoder: an encoder over the visible tokens and a light decoder that predicts the hidden ones.

Asymmetric design of VideoMAE (Tong et al. 2022, section 3.2): the encoder never sees hidden tokens. The decoder gets
the encoded visible tokens and a learned mask token for each hidden token, with position embeddings, and only its
outputs for the hidden tokens are projected to pixels. Parameter names equal the keys of the official checkpoints.

Shapes: B batch, V visible tokens, H hidden tokens, S ignored tokens, M mask tokens, D width,
P pixel values of a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.models.encoder import EncoderConfig, VideoEncoder, position_table
from videomae.models.transformer import Block, initialize


@configclass
class DecoderConfig:
    """Size of the decoder; the defaults belong to a ViT-B encoder."""

    dim: int = 384
    depth: int = 4
    heads: int = 6

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.heads) < 1 or self.dim % self.heads:
            raise UserError(
                f"decoder dim, depth and heads must be positive and dim a multiple of heads, "
                f"got {self.dim}, {self.depth} and {self.heads}"
            )


class PixelDecoder(nn.Module):
    """Transformer blocks, a norm and a linear projection from tokens to the pixel values of a patch."""

    def __init__(self, config: DecoderConfig, *, patch_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config.dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, patch_dim)

    def forward(self, tokens_BND: Tensor, *, last: int) -> Tensor:
        """Predict the pixels of the `last` tokens: predictions_BHP."""
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return self.head(self.norm(tokens_BND[:, -last:]))


class MaskedAutoencoder(nn.Module):
    """Predicts the pixels of hidden patches from the visible ones."""

    positions_ND: Tensor

    def __init__(self, encoder: EncoderConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        self.encoder = VideoEncoder(encoder)
        self.encoder_to_decoder = nn.Linear(encoder.dim, decoder.dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.dim))
        self.decoder = PixelDecoder(decoder, patch_dim=encoder.patch_dim)
        self.register_buffer("positions_ND", position_table(encoder, decoder.dim), persistent=False)
        initialize(self, xavier=True)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, patches_BVP: Tensor, visible_BV: Tensor, hidden_BH: Tensor, ignored_BS: Tensor | None = None
    ) -> Tensor:
        """Predict the hidden patches.

        Args:
            patches_BVP: the visible patches of `videomae.models.encoder.patchify`, normalised float pixels.
            visible_BV, hidden_BH, ignored_BS: int64 token indices, see `pretrain.masking.Mask`.

        Returns:
            predictions_BHP in the order of `hidden_BH`; P ordered as in `patchify`.
        """
        visible_BVD = self.encoder_to_decoder(self.encoder.encode(patches_BVP, visible_BV))
        positions_ND = self.positions_ND.to(visible_BVD.dtype)
        visible_BVD = visible_BVD + functional.embedding(visible_BV, positions_ND)
        masked_BM = hidden_BH if ignored_BS is None else torch.cat([ignored_BS, hidden_BH], dim=1)
        masked_BMD = self.mask_token + functional.embedding(masked_BM, positions_ND)
        return self.decoder(torch.cat([visible_BVD, masked_BMD], dim=1), last=hidden_BH.shape[1])
