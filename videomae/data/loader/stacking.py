"""Puts the clips of a micro-batch one behind the other, in the order of bytes that they have, where others need them.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.utils.data import default_collate

Allocate = Callable[[Sequence[int]], Tensor]  # shape -> uninitialised uint8
_allocate: ContextVar[Allocate | None] = ContextVar("allocate", default=None)


@contextlib.contextmanager
def lay_into(allocate: Allocate) -> Iterator[None]:
    """Inside, clips and stacks of clips are laid into what `allocate` gives."""
    token = _allocate.set(allocate)
    try:
        yield
    finally:
        _allocate.reset(token)


def alloc_clip(*shape: int) -> Tensor:
    """Uninitialised uint8 memory where a clip of a batch under way should lie; clips laid there need no copy later."""
    allocate = _allocate.get()
    return torch.empty(shape, dtype=torch.uint8) if allocate is None else allocate(shape)


def stack_clips(clips: Sequence[Tensor]) -> Tensor:
    """The uint8 clips (T, C, H, W) as one video_BCTHW, a view of memory that lies as (B, T, H, W, C).

    Frames come from decoding and resizing with their channels together. To part them here would cost more than the
    copy itself, and the device does it on the way to floats for next to nothing. Clips that lie in `room`, one behind
    the other, are not copied.
    """
    video_BTHWC = _together([clip.permute(0, 2, 3, 1) for clip in clips])
    return video_BTHWC.permute(0, 4, 1, 2, 3)


def _together(clips_BTHWC: list[Tensor]) -> Tensor:
    allocate, first = _allocate.get(), clips_BTHWC[0]
    if allocate is None:
        return default_collate(clips_BTHWC)  # into shared memory, in a worker of any DataLoader
    if all(_follows(clip, first, place) for place, clip in enumerate(clips_BTHWC)):
        return first.as_strided((len(clips_BTHWC), *first.shape), (first.numel(), *first.stride()))
    stacked_BTHWC = allocate((len(clips_BTHWC), *first.shape))
    return torch.stack(clips_BTHWC, out=stacked_BTHWC)


def _follows(clip: Tensor, first: Tensor, place: int) -> bool:
    """Whether the contiguous clip lies `place` clips behind the first one in the same memory."""
    return (
        clip.shape == first.shape
        and clip.is_contiguous()
        and clip.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and clip.storage_offset() == first.storage_offset() + place * first.numel()
    )
