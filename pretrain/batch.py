"""What travels from the loader to the device: masked clips, one and many.

Shapes: B batch, C channels, T frames, H height (or hidden tokens), W width, V visible tokens, S silent tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretrain.masking import Mask
from videomae.stacking import stack_clips


@dataclass(frozen=True)
class PretrainItem:
    """One clip, uint8, and its mask."""

    frames_TCHW: Tensor
    mask: Mask


@dataclass(frozen=True)
class PretrainBatch:
    """A micro-batch; pixels stay uint8 until they are on the device, token indices are int64."""

    video_BCTHW: Tensor
    visible_BV: Tensor
    hidden_BH: Tensor
    silent_BS: Tensor

    def to(self, device: torch.device) -> PretrainBatch:
        """The batch on `device`."""
        return PretrainBatch(
            self.video_BCTHW.to(device, non_blocking=True),
            self.visible_BV.to(device, non_blocking=True),
            self.hidden_BH.to(device, non_blocking=True),
            self.silent_BS.to(device, non_blocking=True),
        )

    def pin_memory(self) -> PretrainBatch:
        """The batch in page-locked memory, from which copies to a GPU overlap with work."""
        return PretrainBatch(
            self.video_BCTHW.pin_memory(),
            self.visible_BV.pin_memory(),
            self.hidden_BH.pin_memory(),
            self.silent_BS.pin_memory(),
        )


def collate(items: Sequence[PretrainItem]) -> PretrainBatch:
    """Stack clips into a batch."""
    return PretrainBatch(
        video_BCTHW=stack_clips([item.frames_TCHW for item in items]),
        visible_BV=torch.from_numpy(np.stack([item.mask.visible_V for item in items])),
        hidden_BH=torch.from_numpy(np.stack([item.mask.hidden_H for item in items])),
        silent_BS=torch.from_numpy(np.stack([item.mask.silent_S for item in items])),
    )
