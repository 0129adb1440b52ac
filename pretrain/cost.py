"""What pretraining costs by encoder size, measured on built modules; `videomae models` prints it.

The figures published for VideoMAE and VideoMAEv2 (16 x 224 x 224, tube mask 0.9, decoder mask 0.5) stand beside:
parameters of encoder and decoder, and GMACs of the encoder on all tokens, of a pretraining forward, and of one with
dual masking. Ours are lower in pretraining: hidden patches are not embedded, and the decoder's last block computes
its output for the predicted tokens alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from pretrain.autoencoder import DecoderConfig, MaskedAutoencoder
from pretrain.masking import MaskConfig, draw_mask
from pretrain.objective import trivial_loss
from videomae.core.config import parse
from videomae.models.encoder import SIZES, EncoderConfig
from videomae.models.flops import count_flops, training_multiply_adds
from videomae.run.metrics.meter import Workload

DECODERS = {
    "small": DecoderConfig(dim=192, depth=4, heads=3),
    "base": DecoderConfig(dim=384, depth=4, heads=6),
    "large": DecoderConfig(dim=512, depth=12, heads=8),
    "huge": DecoderConfig(dim=640, depth=12, heads=8),
    "giant": DecoderConfig(dim=512, depth=4, heads=8),
}


class Cost(NamedTuple):
    """Parameters in units of 1e6 and multiply-adds of one clip in units of 1e9."""

    encoder_millions: float
    decoder_millions: float  # all that is not the encoder
    full_gmacs: float
    pretraining_gmacs: float
    dual_masking_gmacs: float


PUBLISHED = {
    "small": Cost(21.88, 2.15, 56.9, 11.5, 7.8),
    "base": Cost(86.23, 7.98, 180.3, 35.4, 25.8),
    "large": Cost(303.86, 39.14, 596.8, 142.6, 99.3),
    "huge": Cost(631.61, 60.88, 1191, 237.6, 176.1),
    "giant": Cost(1011.6, 13.9, 2543, 262.4, 240.7),
}


def workload(encoder: EncoderConfig, decoder: DecoderConfig, mask: MaskConfig, *, share: float = 1.0) -> Workload:
    """The cost of a training step per clip: the encoder on visible tokens, the decoder on visible and mask tokens.

    `share` is `objective.decoder_share`.
    """
    with torch.device("meta"):
        model = MaskedAutoencoder(encoder, decoder)
    counted = count_flops(model, *_inputs(mask, encoder, share))
    parts = training_multiply_adds(model, counted)
    visible = parts.pop("encoder")
    return Workload(
        multiply_adds={"encoder": visible, "decoder": sum(parts.values())},
        parameters=counted.parameters,
        trivial=trivial_loss(encoder),
    )


def measure(size: str) -> Cost:
    """The cost at a published size, measured on the meta device."""
    encoder = parse(EncoderConfig, dict(SIZES[size]), source=f"size {size}")
    with torch.device("meta"):
        model = MaskedAutoencoder(encoder, DECODERS[size])
        video_BCTHW = torch.empty(1, 3, encoder.frames, encoder.size, encoder.size)
    full = count_flops(model.encoder, video_BCTHW)
    plain, dual = (
        count_flops(model, *_inputs(MaskConfig(decoder=decoder), encoder)) for decoder in ("all", "running_cell")
    )
    decoder = plain.parameters - full.parameters
    return Cost(full.parameters / 1e6, decoder / 1e6, full.gmacs, plain.gmacs, dual.gmacs)


def _inputs(mask: MaskConfig, encoder: EncoderConfig, share: float = 1.0) -> list[torch.Tensor]:
    """The inputs of a `MaskedAutoencoder` for one clip."""
    drawn = draw_mask(mask, encoder, np.random.default_rng(0), share=share)
    indices = [torch.from_numpy(part)[None] for part in (drawn.visible_V, drawn.hidden_H, drawn.ignored_S)]
    return [torch.empty(1, len(drawn.visible_V), encoder.patch_dim, device="meta"), *indices]


def rows() -> list[dict[str, object]]:
    """Every size: measured, published and deviation of each figure."""
    found: list[dict[str, object]] = []
    for size, published in PUBLISHED.items():
        row: dict[str, object] = {"size": size}
        for name, ours, theirs in zip(Cost._fields, measure(size), published, strict=True):
            row[name] = {"measured": ours, "published": theirs, "deviation": ours / theirs - 1}
        found.append(row)
    return found
