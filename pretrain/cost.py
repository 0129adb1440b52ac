"""What a step of pretraining costs, counted on the meta device."""

from __future__ import annotations

import numpy as np
import torch

from pretrain.autoencoder import DecoderConfig, MaskedAutoencoder
from pretrain.masking import MaskConfig, draw_mask
from pretrain.objective import trivial_loss
from videomae.models.encoder import EncoderConfig
from videomae.models.flops import count_flops, training_multiply_adds
from videomae.run.metrics.meter import Workload

DECODERS = {
    "small": DecoderConfig(dim=192, depth=4, heads=3),
    "base": DecoderConfig(dim=384, depth=4, heads=6),
    "large": DecoderConfig(dim=512, depth=12, heads=8),
    "huge": DecoderConfig(dim=640, depth=12, heads=8),
    "giant": DecoderConfig(dim=512, depth=4, heads=8),
}
"""The decoders published for the encoders of these sizes (VideoMAE, VideoMAEv2)."""


def workload(encoder: EncoderConfig, decoder: DecoderConfig, mask: MaskConfig, *, share: float = 1.0) -> Workload:
    """The cost of a training step per clip: the encoder on visible tokens, the decoder on visible and mask tokens.

    `share` is `objective.decoder_share`.
    """
    with torch.device("meta"):
        model = MaskedAutoencoder(encoder, decoder)
    drawn = draw_mask(mask, encoder, np.random.default_rng(0), share=share)
    indices = [torch.from_numpy(part)[None] for part in (drawn.visible_V, drawn.hidden_H, drawn.ignored_S)]
    patches_BVP = torch.empty(1, len(drawn.visible_V), encoder.patch_dim, device="meta")
    counted = count_flops(model, patches_BVP, *indices)
    parts = training_multiply_adds(model, counted)
    visible = parts.pop("encoder")
    return Workload(
        multiply_adds={"encoder": visible, "decoder": sum(parts.values())},
        parameters=counted.parameters,
        trivial=trivial_loss(encoder),
    )
