"""Puts the clips of a micro-batch one behind the other, in the order of bytes that they have, where others need them.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import default_collate


def stack_clips(clips: Sequence[Tensor]) -> Tensor:
    """The uint8 clips (T, C, H, W) as one video_BCTHW, a view of memory that lies as (B, T, H, W, C).

    Frames come from decoding and resizing with their channels together. To part them here would cost more than the
    copy itself, and the device does it on the way to floats for next to nothing. In a worker process the batch is laid
    into shared memory at once, so that nothing is copied again on its way to the main process.
    """
    video_BTHWC = default_collate([clip.permute(0, 2, 3, 1) for clip in clips])
    return video_BTHWC.permute(0, 4, 1, 2, 3)
