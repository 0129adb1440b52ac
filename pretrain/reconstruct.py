"""Images of original, masked and reconstructed frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from pretrain.autoencoder import MaskedAutoencoder
from pretrain.batch import PretrainBatch
from pretrain.objective import PatchNormalizer, hidden_targets, to_pixels
from videomae.models.encoder import EncoderConfig, patchify, take_tokens, unpatchify

GREY = 0.5


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, batch: PretrainBatch, *, normalized: bool, share: float = 1.0) -> Tensor:
    """Original, masked and reconstructed videos of a batch: uint8 (B, 3, C, T, H, W).

    `normalized` says whether the model was trained on normalised targets: then each predicted patch is scaled by the
    original patch's mean and deviation. Visible patches are copied from the original, patches that dual masking leaves
    unpredicted stay grey. With a `share` below 1 (`objective.decoder_share`) the hidden patches are predicted in random
    groups of that size, since the decoder was trained with so many mask tokens.
    """
    encoder = model.encoder.config
    video_BCTHW = batch.video_BCTHW.float() / 255
    hidden_BH = batch.hidden_BH
    if share < 1:
        order_H = torch.randperm(hidden_BH.shape[1], generator=torch.Generator().manual_seed(0))
        hidden_BH = hidden_BH[:, order_H]
    _, statistics = hidden_targets(batch.video_BCTHW, hidden_BH, encoder=encoder, normalize=normalized)
    visible_BVP = take_tokens(patchify(batch.video_BCTHW, encoder), batch.visible_BV)
    normed_BVP = PatchNormalizer(encoder, visible_BVP.device)(visible_BVP)
    groups = hidden_BH.split(max(1, round(share * hidden_BH.shape[1])), dim=1)
    predicted = [model(normed_BVP, batch.visible_BV, group_BG, batch.ignored_BS) for group_BG in groups]
    predictions_BHP = torch.cat(predicted, dim=1)
    pixels_BHP = to_pixels(predictions_BHP, statistics, normalize=normalized).clamp(0, 1)
    masked_BCTHW = _replace(torch.full_like(video_BCTHW, GREY), batch.visible_BV, visible_BVP / 255, encoder)
    rebuilt_BCTHW = _replace(masked_BCTHW, hidden_BH, pixels_BHP, encoder)
    return (torch.stack([video_BCTHW, masked_BCTHW, rebuilt_BCTHW], dim=1) * 255).round().to(torch.uint8)


def write_visualizations(triples: Tensor, folder: Path, *, columns: int = 8) -> list[Path]:
    """Write one PNG per clip: rows original / masked / reconstructed of `triples`, uint8 (B, 3, C, T, H, W)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"clip-{number}.png" for number in range(len(triples))]
    for triple, path in zip(triples, paths, strict=True):
        strip(triple, columns=columns).save(path)
    return paths


def strip(triple: Tensor, *, columns: int = 8) -> Image.Image:
    """Rows original / masked / reconstructed of one clip, uint8 (3, C, T, H, W), `columns` evenly spaced frames."""
    frames = triple.shape[2]
    chosen = torch.linspace(0, frames - 1, min(columns, frames)).round().long()
    image = rearrange(triple[:, :, chosen], "row c t h w -> (row h) (t w) c").cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(image))


def _replace(video_BCTHW: Tensor, tokens_BK: Tensor, patches_BKP: Tensor, encoder: EncoderConfig) -> Tensor:
    patches_BNP = patchify(video_BCTHW, encoder)
    index_BKP = tokens_BK[..., None].expand(-1, -1, patches_BNP.shape[-1])
    return unpatchify(patches_BNP.scatter(1, index_BKP, patches_BKP), encoder)
