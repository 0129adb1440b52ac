"""Masked clips, single and batched, as the loader hands them to the training step.

Shapes: B batch, C channels, T frames, H height (or hidden tokens), W width, V visible tokens, S ignored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretrain.masking import Mask
from videomae.data.batch import AllocClip, TensorBatch, stack_clips, stack_weights


@dataclass(frozen=True)
class PretrainItem:
    """One uint8 clip, its mask, and its weight in a mean over the batch."""

    frames_TCHW: Tensor
    mask: Mask
    weight: float = 1.0


@dataclass(frozen=True)
class PretrainBatch(TensorBatch):
    """A micro-batch; pixels stay uint8 until they are on the device, token indices are int64."""

    video_BCTHW: Tensor
    visible_BV: Tensor
    hidden_BH: Tensor
    ignored_BS: Tensor
    weight_B: Tensor | None = None  # float32; None: all clips weigh the same


def collate(items: Sequence[PretrainItem], alloc: AllocClip | None = None) -> PretrainBatch:
    """Stack items into a batch, in memory from `alloc`."""
    return PretrainBatch(
        video_BCTHW=stack_clips([item.frames_TCHW for item in items], alloc),
        visible_BV=torch.from_numpy(np.stack([item.mask.visible_V for item in items])),
        hidden_BH=torch.from_numpy(np.stack([item.mask.hidden_H for item in items])),
        ignored_BS=torch.from_numpy(np.stack([item.mask.ignored_S for item in items])),
        weight_B=stack_weights(item.weight for item in items),
    )
