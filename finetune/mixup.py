"""Mixup and CutMix on a batch of clips, and label smoothing.

Mixup (Zhang et al. 2018) blends each clip with a partner, CutMix (Yun et al. 2019) pastes a box of the partner, the
same in all frames. As in the official fine-tuning, partners are the batch in reverse order and each batch draws one of
the two. Padding clips are never partners of real clips.

Shapes: B batch, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional

from videomae.core.config import configclass
from videomae.data.batch import weighted_mean


@configclass
class MixupConfig:
    """Strengths; zero disables a part."""

    mixup: NonNegativeFloat = 0.0  # alpha of the beta distribution; official 0.8
    cutmix: NonNegativeFloat = 0.0  # alpha; official 1.0
    smoothing: float = Field(0.0, ge=0, lt=1)  # of the labels; official 0.1


def soft_labels(label_B: Tensor, *, classes: int, smoothing: float) -> Tensor:
    """One-hot labels with `smoothing` spread evenly over all classes: (B, K) float32."""
    return functional.one_hot(label_B, classes).float() * (1 - smoothing) + smoothing / classes


def partners(weight_B: Tensor) -> Tensor:
    """partner_B: real clips are paired in reverse order, clips of weight 0 with themselves.

    Synchronises with the device of `weight_B`.
    """
    real_R = weight_B.nonzero()[:, 0]
    partner_B = torch.arange(len(weight_B), device=weight_B.device)
    partner_B[real_R] = real_R.flip(0)
    return partner_B


def mix(
    video_BCTHW: Tensor,
    target_BK: Tensor,
    config: MixupConfig,
    rng: np.random.Generator,
    partner_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mix each clip of a float batch, and its target, with its partner; unchanged if both strengths are zero.

    Without `partner_B` the partners are the whole batch in reverse order.
    """
    if config.mixup == 0 and config.cutmix == 0:
        return video_BCTHW, target_BK
    cut = config.cutmix > 0 and (config.mixup == 0 or rng.random() < 0.5)
    alpha = config.cutmix if cut else config.mixup
    kept = float(rng.beta(alpha, alpha))
    if cut:
        video_BCTHW, kept = _paste_box(video_BCTHW, kept, rng, partner_B)
    else:
        video_BCTHW = kept * video_BCTHW + (1 - kept) * _others(video_BCTHW, partner_B)
    return video_BCTHW, kept * target_BK + (1 - kept) * _others(target_BK, partner_B)


def _others(values: Tensor, partner_B: Tensor | None) -> Tensor:
    """The values (B, ...) of each clip's partner."""
    return values.flip(0) if partner_B is None else values[partner_B]


def _paste_box(
    video_BCTHW: Tensor, kept: float, rng: np.random.Generator, partner_B: Tensor | None
) -> tuple[Tensor, float]:
    """Paste a box of the partner that covers about 1 - `kept` of the frame; returns the exact share that is kept."""
    height, width = video_BCTHW.shape[-2:]
    share = float(np.sqrt(1 - kept))
    middle_y, middle_x = rng.integers(height), rng.integers(width)
    top, bottom = (int(np.clip(middle_y + sign * share * height / 2, 0, height)) for sign in (-1, 1))
    left, right = (int(np.clip(middle_x + sign * share * width / 2, 0, width)) for sign in (-1, 1))
    mixed = video_BCTHW.clone()
    mixed[..., top:bottom, left:right] = _others(video_BCTHW, partner_B)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def cross_entropy(logits_BK: Tensor, target_BK: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """Cross-entropy with soft targets in float32, averaged over the batch with the weights of the clips."""
    loss_B = torch.sum(-target_BK * functional.log_softmax(logits_BK.float(), dim=-1), dim=-1)
    return weighted_mean(loss_B, weight_B)
