"""The masked autoencoder: an encoder over the visible tokens and a light decoder that predicts the hidden ones.

Asymmetric design of VideoMAE (Tong et al. 2022, section 3.2): the encoder never sees hidden tokens. The decoder gets
the encoded visible tokens and a learned mask token for each hidden token, with position embeddings, and only its
outputs for the hidden tokens are projected to pixels; its last block computes no other output. With cross-attention
(Fu et al. 2024, CrossMAE, arXiv 2401.14391, section 3.2) mask tokens attend to the visible tokens alone. Parameter
names equal the keys of the official checkpoints.

Shapes: B batch, V visible tokens, H hidden tokens, S ignored tokens, M mask tokens, D width,
P pixel values of a patch.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.models.encoder import EncoderConfig, VideoEncoder, position_table
from videomae.models.transformer import Block, CrossBlock, initialize


@configclass
class DecoderConfig:
    """Kind and size of the decoder; the defaults belong to a ViT-B encoder."""

    # self: attention among visible and mask tokens (VideoMAE). cross: mask tokens attend to visible tokens alone
    # (CrossMAE); each prediction is then independent of the other mask tokens, and cheaper.
    kind: Literal["self", "cross"] = "self"
    dim: PositiveInt = 384
    depth: PositiveInt = 4
    heads: PositiveInt = 6

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise UserError(f"decoder dim ({self.dim}) must be a multiple of heads ({self.heads})")


class PixelDecoder(nn.Module):
    """Transformer blocks, a norm and a linear projection from tokens to the pixel values of a patch."""

    def __init__(self, config: DecoderConfig, *, patch_dim: int) -> None:
        super().__init__()
        self.kind = config.kind
        block = Block if config.kind == "self" else CrossBlock
        self.blocks = nn.ModuleList(block(config.dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, patch_dim)

    def forward(self, visible_BVD: Tensor, masked_BMD: Tensor, *, last: int) -> Tensor:
        """Predict the pixels of the `last` mask tokens: predictions_BHP."""
        if self.kind == "self":
            tokens_BND = torch.cat([visible_BVD, masked_BMD], dim=1)
            for block in self.blocks[:-1]:
                tokens_BND = block(tokens_BND)
            tokens_BHD = self.blocks[-1](tokens_BND, last)
        else:
            tokens_BHD = masked_BMD[:, -last:]
            for block in self.blocks:
                tokens_BHD = block(tokens_BHD, visible_BVD)
        return self.head(self.norm(tokens_BHD))


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
        return self.decoder(visible_BVD, masked_BMD, last=hidden_BH.shape[1])
